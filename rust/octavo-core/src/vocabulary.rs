//! What the tokens of the model stand for: opened when the first grammar comes.
//!
//! llguidance is given no tokenizer: it never forces a token, and the model chooses among all spellings of a text.
//! Tokens that we made of a forced text could be others than those which the tokenizer makes of the whole.

use std::sync::Arc;

use llguidance::ParserFactory;
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};

use crate::turn::message;

/// A lexer's state takes 1 to 2 KB.
const MAX_LEXER_STATES: usize = 50_000;

/// What the tokens of a model stand for, by token id.
#[derive(Default)]
pub struct Vocabulary(Vec<Vec<u8>>);

pub type OpenVocabulary = Box<dyn FnOnce() -> Result<Vocabulary, String> + Send>;

impl Vocabulary {
    /// A token that stands for bytes of text. No text has the byte 0xff, which marks special tokens here.
    pub fn push_text(&mut self, bytes: &[u8]) {
        let word = if bytes.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER) { &[] } else { bytes };
        self.0.push(word.to_vec());
    }

    /// A token that no text has, such as the end of a sequence. A grammar may name it.
    pub fn push_special(&mut self, name: &str) {
        self.0.push([&[TokTrie::SPECIAL_TOKEN_MARKER], name.as_bytes()].concat());
    }

    /// An id without a token.
    pub fn push_hole(&mut self) {
        self.0.push(Vec::new());
    }

    /// llguidance's compiler for these tokens.
    pub(crate) fn factory(mut self, vocab_size: usize, eos_token_ids: &[u32]) -> Result<ParserFactory, String> {
        self.0.resize(vocab_size, Vec::new());
        let Some(&eos) = eos_token_ids.first() else {
            return Err("the model has no end-of-sequence token, so that no structure could end".into());
        };
        let trie = TokTrie::from(&TokRxInfo::new(vocab_size as u32, eos), &self.0).with_eos_tokens(eos_token_ids);
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let slices = SlicedBiasComputer::general_slices();
        let factory = ParserFactory::new(&environment, InferenceCapabilities::default(), &slices);
        let mut factory = factory.map_err(|error| message(&error))?;
        factory.quiet();
        let limits = factory.limits_mut();
        limits.max_lexer_states = MAX_LEXER_STATES;
        limits.verbose_errors = false;
        Ok(factory)
    }
}
