//! Text to tokens and back: tokenizer, incremental detokenizer, stop strings, and the front end which speaks frames.
