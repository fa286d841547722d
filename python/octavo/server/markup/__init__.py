"""What the parsers of tools and reasoning share: reader (text as it comes), parts out (sink), JSON, and clean-up."""
