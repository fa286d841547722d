//! Tokens to text, one token at a time: the pieces together are the text of the whole.
//!
//! With byte-level and SentencePiece vocabularies a token has its bytes, and only an incomplete character is held back.
//! With others a token's text depends on the one before, so a short window is decoded twice and the difference shown.
//! An answer continues its prompt: SentencePiece's habit of dropping the first space of a text does not apply to it.

use std::sync::Arc;

use crate::tokenize::{Decoding, Kind, Tokenizer};

/// Tokens of the prompt that the window of [`Decoding::Context`] starts with.
const CONTEXT_TOKENS: usize = 6;
/// Tokens that may wait for their character: one has at most 4 bytes. It bounds the window for output without end.
const MAX_WAITING_TOKENS: usize = 8;

pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    skip_special_tokens: bool,
    spaces_between_special_tokens: bool,
    state: State,
}

enum State {
    /// The first bytes of a character that is not complete.
    Bytes { incomplete: Vec<u8> },
    /// `ids[..read]` have been shown as `shown`.
    Context { ids: Vec<u32>, read: usize, shown: String, after_special: bool },
}

impl Detokenizer {
    /// For one answer to `prompt`.
    ///
    /// Without `spaces_between_special_tokens` a special token that follows another one is its bare text; with it, what
    /// the tokenizer's decoder makes of it. They differ where the decoder puts spaces between tokens (WordPiece).
    pub fn new(
        tokenizer: Arc<Tokenizer>,
        prompt: &[u32],
        skip_special_tokens: bool,
        spaces_between_special_tokens: bool,
    ) -> Self {
        let state = match tokenizer.decoding() {
            Decoding::Bytes | Decoding::Pieces => State::Bytes { incomplete: Vec::new() },
            Decoding::Context => {
                let known = |id: &u32| tokenizer.kind(*id) != Kind::Hole;
                let tail = &prompt[prompt.len().saturating_sub(CONTEXT_TOKENS)..];
                let ids: Vec<u32> = tail.iter().copied().filter(known).collect();
                let shown = tokenizer.decode(&ids, skip_special_tokens).unwrap_or_default();
                State::Context { read: ids.len(), ids, shown, after_special: false }
            }
        };
        Self { tokenizer, skip_special_tokens, spaces_between_special_tokens, state }
    }

    /// Appends to `out` the text which `token` completes. An id without a token (a model's vocabulary may be padded)
    /// has no text.
    pub fn push(&mut self, token: u32, out: &mut String) {
        let kind = self.tokenizer.kind(token);
        if kind == Kind::Hole || kind == Kind::Special && self.skip_special_tokens {
            return;
        }
        match &mut self.state {
            State::Bytes { incomplete } => {
                let Ok(bytes) = self.tokenizer.token_bytes(token) else { return };
                match self.tokenizer.decoding() {
                    Decoding::Pieces if kind != Kind::Byte => {
                        replace_each(incomplete, out);
                        // A piece is whole characters, as its spelling is.
                        out.push_str(&String::from_utf8_lossy(bytes));
                    }
                    decoding => push_bytes(bytes, decoding == Decoding::Pieces, incomplete, out),
                }
            }
            State::Context { ids, read, shown, after_special } => {
                let follows_special = std::mem::replace(after_special, kind == Kind::Special);
                let bare = !self.spaces_between_special_tokens && follows_special && *after_special;
                ids.push(token);
                let whole = self.tokenizer.decode(ids, self.skip_special_tokens).unwrap_or_default();
                let is_complete = whole.len() > shown.len() && !whole.ends_with(char::REPLACEMENT_CHARACTER);
                if is_complete || ids.len() - *read >= MAX_WAITING_TOKENS {
                    match self.tokenizer.token(token).filter(|_| bare) {
                        Some(text) => out.push_str(&text),
                        None => out.push_str(whole.get(shown.len()..).unwrap_or_default()),
                    }
                    ids.drain(..*read);
                    *read = ids.len();
                    *shown = self.tokenizer.decode(ids, self.skip_special_tokens).unwrap_or_default();
                }
            }
        }
    }

    /// No token follows: an incomplete character is shown as U+FFFD.
    pub fn finish(&mut self, out: &mut String) {
        match &mut self.state {
            State::Bytes { incomplete } if self.tokenizer.decoding() == Decoding::Pieces => {
                replace_each(incomplete, out);
            }
            State::Bytes { incomplete } => {
                out.push_str(&String::from_utf8_lossy(incomplete));
                incomplete.clear();
            }
            State::Context { ids, read, shown, .. } => {
                let whole = self.tokenizer.decode(ids, self.skip_special_tokens).unwrap_or_default();
                out.push_str(whole.get(shown.len()..).unwrap_or_default());
                *read = ids.len();
                *shown = whole;
            }
        }
    }
}

/// Shows the characters that `bytes` complete, and keeps the beginning of the next. What cannot become a character is
/// one U+FFFD for each maximal wrong sequence, as `String::from_utf8_lossy` has it, or with `bytewise` for each byte.
fn push_bytes(bytes: &[u8], bytewise: bool, incomplete: &mut Vec<u8>, out: &mut String) {
    let joined;
    let bytes = if incomplete.is_empty() {
        bytes
    } else {
        incomplete.extend_from_slice(bytes);
        joined = std::mem::take(incomplete);
        joined.as_slice()
    };
    let mut rest = bytes;
    loop {
        match str::from_utf8(rest) {
            Ok(text) => {
                out.push_str(text);
                return;
            }
            Err(error) => {
                let (valid, after) = rest.split_at(error.valid_up_to());
                out.push_str(&String::from_utf8_lossy(valid));
                let Some(wrong) = error.error_len() else {
                    incomplete.extend_from_slice(after);
                    return;
                };
                for _ in 0..if bytewise { wrong } else { 1 } {
                    out.push(char::REPLACEMENT_CHARACTER);
                }
                rest = &after[wrong..];
            }
        }
    }
}

fn replace_each(incomplete: &mut Vec<u8>, out: &mut String) {
    for _ in incomplete.drain(..) {
        out.push(char::REPLACEMENT_CHARACTER);
    }
}
