"""See octavo.entrypoints."""
