"""Models: where their files are (source), what the files hold (checkpoint), and the decoder built from them (spec, decoder)."""
