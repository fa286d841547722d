"""Models: where their files are (source), what they hold (checkpoint), and the decoder they make (spec, decoder)."""
