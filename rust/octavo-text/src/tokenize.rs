//! A tokenizer, and the table of the bytes that each of its tokens stands for.

use serde_json::Value;
use tokenizers::utils::truncation::truncate_encodings;
use tokenizers::{PostProcessor, TruncationDirection, TruncationParams, TruncationStrategy};

use crate::sampling::Side;
use crate::strings::StringList;
use crate::vocabulary;

/// Token ids past this are no vocabulary; it bounds the table's memory against a file which claims them.
const MAX_TOKEN_ID: u32 = (1 << 24) - 1;
/// The word separator of SentencePiece, U+2581.
const SEPARATOR: char = '▁';

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenizerError {
    #[error("not a usable tokenizer: {0}")]
    File(String),
    #[error("unknown token id {0}")]
    UnknownToken(u32),
    #[error("the tokenizer failed: {0}")]
    Failed(String),
}

/// How tokens become text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decoding {
    /// GPT-2's byte alphabet: a text is the bytes of its tokens.
    Bytes,
    /// SentencePiece's pieces, with `<0xNN>` tokens for single bytes: a text is the bytes of its tokens, too.
    Pieces,
    /// A token's text depends on its neighbours.
    Context,
}

pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    decoding: Decoding,
    vocab_size: usize,
    /// The bytes of token `i` end at `ends[i]`, where those of the next begin.
    bytes: Vec<u8>,
    ends: Vec<u32>,
    kinds: Vec<Kind>,
    longest: usize,
}

/// What a token id stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Token<'a> {
    Hole,
    /// Bytes of text.
    Text(&'a [u8]),
    /// A token that no text has, by its name.
    Special(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The vocabulary has no token of this id.
    Hole,
    Plain,
    /// A `<0xNN>` token.
    Byte,
    /// An added token marked special, such as the end of a sequence.
    Special,
}

impl Tokenizer {
    /// Truncation and padding that the file may ask for are left off: a prompt is refused, never cut in silence.
    pub fn from_json(data: &[u8]) -> Result<Self, TokenizerError> {
        Self::new(vocabulary::from_json(data)?)
    }

    /// `document` is a tokenizer.json of a BPE model without `vocab`: token `i` is string `i` of `tokens`. `merges` are
    /// pairs with a space between; `None` when the document has them.
    pub fn from_lists(
        document: &[u8],
        tokens: &StringList,
        merges: Option<&StringList>,
    ) -> Result<Self, TokenizerError> {
        Self::new(vocabulary::from_lists(document, tokens, merges)?)
    }

    /// A complete tokenizer.json.
    pub fn to_json(&self) -> Result<String, TokenizerError> {
        self.inner.to_string(false).map_err(|error| TokenizerError::Failed(error.to_string()))
    }

    fn new(inner: tokenizers::Tokenizer) -> Result<Self, TokenizerError> {
        let file_error = |error: &dyn std::fmt::Display| TokenizerError::File(error.to_string());
        let decoder = serde_json::to_value(inner.get_decoder()).map_err(|error| file_error(&error))?;
        let mut tokenizer = Self {
            decoding: classify(&decoder),
            vocab_size: 0,
            bytes: Vec::new(),
            ends: Vec::new(),
            kinds: Vec::new(),
            longest: 0,
            inner,
        };
        tokenizer.fill_table()?;
        Ok(tokenizer)
    }

    fn fill_table(&mut self) -> Result<(), TokenizerError> {
        let mut tokens: Vec<(u32, String)> = self.inner.get_vocab(true).into_iter().map(|(t, id)| (id, t)).collect();
        tokens.sort_unstable();
        tokens.dedup_by_key(|(id, _)| *id);
        let Some((last, _)) = tokens.last() else {
            return Err(TokenizerError::File("the vocabulary is empty".into()));
        };
        if *last > MAX_TOKEN_ID {
            return Err(TokenizerError::File(format!("token id {last} is too large")));
        }
        self.vocab_size = tokens.len();
        let added = self.inner.get_added_vocabulary();
        for (id, token) in &tokens {
            while self.ends.len() < *id as usize {
                self.ends.push(self.bytes.len() as u32);
                self.kinds.push(Kind::Hole);
            }
            let start = self.bytes.len();
            // An id has one spelling in the model, and another one as an added token wins.
            let spelling = added.simple_id_to_token(*id).unwrap_or_else(|| token.clone());
            let kind = match self.decoding {
                _ if added.is_special_token(&spelling) => Kind::Special,
                Decoding::Pieces if byte_token(&spelling).is_some() => Kind::Byte,
                _ => Kind::Plain,
            };
            match (self.decoding, byte_token(&spelling)) {
                (Decoding::Bytes, _) => append_byte_level(&spelling, &mut self.bytes),
                (Decoding::Pieces, Some(byte)) => self.bytes.push(byte),
                (Decoding::Pieces, None) => self.bytes.extend(spelling.replace(SEPARATOR, " ").bytes()),
                (Decoding::Context, _) => {
                    let text = self.inner.decode(&[*id], false).map_err(|e| TokenizerError::File(e.to_string()))?;
                    self.bytes.extend(text.bytes());
                }
            }
            self.longest = self.longest.max(self.bytes.len() - start).max(spelling.len());
            self.ends.push(self.bytes.len() as u32);
            self.kinds.push(kind);
        }
        Ok(())
    }

    /// Number of tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Token ids of `text`; with `add_special_tokens` also those which the tokenizer puts around a text.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self.inner.encode_fast(text, add_special_tokens);
        Ok(encoding.map_err(|error| TokenizerError::Failed(error.to_string()))?.get_ids().to_vec())
    }

    /// Token ids of a text, or of two with what the tokenizer puts between them; and how many, from the first, are of
    /// the first type. `cut` says how many tokens may be there, and where the longer text loses some; special ones stay.
    pub(crate) fn encode_parts(
        &self,
        first: &str,
        second: Option<&str>,
        add_special_tokens: bool,
        cut: Option<(usize, Side)>,
    ) -> Result<(Vec<u32>, usize), TokenizerError> {
        let failed = |error: tokenizers::Error| TokenizerError::Failed(error.to_string());
        let mut one = self.inner.encode_fast(first, false).map_err(failed)?;
        let mut other = second.map(|text| self.inner.encode_fast(text, false)).transpose().map_err(failed)?;
        if let Some((max_tokens, side)) = cut {
            let processor = self.inner.get_post_processor().filter(|_| add_special_tokens);
            let params = TruncationParams {
                max_length: max_tokens.saturating_sub(processor.map_or(0, |p| p.added_tokens(other.is_some()))),
                strategy: TruncationStrategy::LongestFirst,
                stride: 0,
                direction: match side {
                    Side::Left => TruncationDirection::Left,
                    Side::Right => TruncationDirection::Right,
                },
            };
            (one, other) = truncate_encodings(one, other, &params).map_err(failed)?;
        }
        let encoding = self.inner.post_process(one, other, add_special_tokens).map_err(failed)?;
        let num_first = encoding.get_type_ids().iter().take_while(|&&kind| kind == 0).count();
        Ok((encoding.get_ids().to_vec(), num_first))
    }

    /// Text of `ids`; bytes that form no character become U+FFFD.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, TokenizerError> {
        if let Some(unknown) = ids.iter().find(|id| self.kind(**id) == Kind::Hole) {
            return Err(TokenizerError::UnknownToken(*unknown));
        }
        self.inner.decode(ids, skip_special_tokens).map_err(|error| TokenizerError::Failed(error.to_string()))
    }

    /// The token as the vocabulary spells it.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The bytes that a token stands for in a text. Where that depends on its neighbours (WordPiece and others), those
    /// of the token alone.
    pub fn token_bytes(&self, id: u32) -> Result<&[u8], TokenizerError> {
        if self.kind(id) == Kind::Hole {
            return Err(TokenizerError::UnknownToken(id));
        }
        let index = id as usize;
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        Ok(&self.bytes[start as usize..self.ends[index] as usize])
    }

    /// What each id stands for, in order, or `None` where the text of a token depends on its neighbours.
    pub fn tokens(&self) -> Option<impl Iterator<Item = Token<'_>>> {
        let token = |(id, kind): (u32, &Kind)| match kind {
            Kind::Hole => Token::Hole,
            Kind::Plain | Kind::Byte => Token::Text(self.token_bytes(id).unwrap_or_default()),
            Kind::Special => Token::Special(self.token(id).unwrap_or_default()),
        };
        (self.decoding != Decoding::Context).then(|| (0..).zip(&self.kinds).map(token))
    }

    /// Length of the longest token in bytes: no text of more than n times that has n tokens.
    pub fn longest_token(&self) -> usize {
        self.longest
    }

    pub(crate) fn decoding(&self) -> Decoding {
        self.decoding
    }

    pub(crate) fn kind(&self, id: u32) -> Kind {
        self.kinds.get(id as usize).copied().unwrap_or(Kind::Hole)
    }
}

/// Finds out how tokens become text from the decoder's own description.
fn classify(decoder: &Value) -> Decoding {
    let steps = match decoder.get("decoders") {
        Some(Value::Array(steps)) => steps.as_slice(),
        _ => std::slice::from_ref(decoder),
    };
    let kind = |step: &Value| step.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    let is_separator = |step: &Value| {
        step["pattern"]["String"].as_str() == Some("▁") && step["content"].as_str() == Some(" ")
            || step["replacement"].as_str() == Some("▁")
    };
    let is_first_space =
        |step: &Value| step["content"].as_str() == Some(" ") && step["start"] == 1 && step["stop"] == 0;
    match steps {
        [first, rest @ ..] if kind(first) == "ByteLevel" && rest.iter().all(|step| kind(step) == "Fuse") => {
            Decoding::Bytes
        }
        [first, rest @ ..]
            if matches!(kind(first).as_str(), "Replace" | "Metaspace")
                && is_separator(first)
                && rest.iter().all(|step| match kind(step).as_str() {
                    "ByteFallback" | "Fuse" => true,
                    "Strip" => is_first_space(step),
                    _ => false,
                }) =>
        {
            Decoding::Pieces
        }
        _ => Decoding::Context,
    }
}

/// The byte of a `<0xNN>` token.
fn byte_token(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let is_byte = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    if is_byte { u8::from_str_radix(digits, 16).ok() } else { None }
}

/// A token spelled in GPT-2's alphabet, where each byte is one printable character. A token with any other character,
/// as added tokens may have, stands for itself.
fn append_byte_level(token: &str, bytes: &mut Vec<u8>) {
    let start = bytes.len();
    for character in token.chars() {
        match byte_of(character) {
            Some(byte) => bytes.push(byte),
            None => {
                bytes.truncate(start);
                bytes.extend(token.bytes());
                return;
            }
        }
    }
}

/// GPT-2's alphabet (`bytes_to_unicode` of its encoder): printable Latin-1 stands for itself, the other 68 bytes
/// follow in order from U+0100.
fn byte_of(character: char) -> Option<u8> {
    let code = u32::from(character);
    let byte = match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => code,
        0x100..=0x120 => code - 0x100,
        0x121..=0x142 => code - 0x121 + 0x7f,
        0x143 => 0xad,
        _ => return None,
    };
    u8::try_from(byte).ok()
}
