//! A request as the caller gives it, and the checks which need the model's limits and the tokenized prompt.

use std::sync::Arc;

use crate::event::FailedReason;
use crate::sampling::{Sampling, Side, Truncation};
use crate::tokenize::Tokenizer;

const MAX_SALT_BYTES: usize = 1024;

/// What the model can take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Prompt and answer together.
    pub max_model_len: usize,
    /// Token ids are below this.
    pub vocab_size: usize,
}

#[derive(Clone, Debug)]
pub enum Prompt {
    Text(String),
    Ids(Vec<u32>),
}

#[derive(Clone, Debug)]
pub struct Request {
    pub prompt: Prompt,
    pub sampling: Arc<Sampling>,
    /// For text: also the tokens which the tokenizer puts around it.
    pub add_special_tokens: bool,
    /// Cut `max_tokens` to the rest of the context instead of refusing the request.
    pub clamp_max_tokens: bool,
    pub priority: i32,
    pub cache_salt: String,
}

/// Why a request has failed: the fields of the event `Failed`.
pub(crate) type Failure = (FailedReason, Option<&'static str>, String);

pub(crate) fn invalid(param: &'static str, message: String) -> Failure {
    (FailedReason::Invalid, Some(param), message)
}

impl Request {
    pub fn new(prompt: Prompt, sampling: Arc<Sampling>) -> Self {
        let cache_salt = String::new();
        Self { prompt, sampling, add_special_tokens: true, clamp_max_tokens: false, priority: 0, cache_salt }
    }

    /// What can be told before tokenizing. That takes time in proportion to the text, so a text that cannot fit is
    /// refused by its length alone.
    pub(crate) fn check(&self, limits: &Limits, tokenizer: Option<&Tokenizer>) -> Result<(), Failure> {
        if self.cache_salt.len() > MAX_SALT_BYTES {
            return Err(invalid("cache_salt", format!("cache_salt has at most {MAX_SALT_BYTES} bytes.")));
        }
        if tokenizer.is_none() && !self.sampling.stop.is_empty() {
            return Err(invalid("stop", "Stop strings need a tokenizer, and there is none.".into()));
        }
        let Prompt::Text(text) = &self.prompt else { return Ok(()) };
        let Some(tokenizer) = tokenizer else {
            return Err(invalid("prompt", "The prompt must be token ids: there is no tokenizer.".into()));
        };
        let (limit, length) = (limits.max_model_len, text.len());
        let is_cut = self.sampling.truncation.is_some();
        if !is_cut && length > limit.saturating_mul(tokenizer.longest_token()) {
            return Err(invalid(
                "prompt",
                format!(
                    "This model's maximum context length is {limit} tokens. However, your prompt has {length} bytes of \
                     text, more than that many tokens can hold. Please shorten the prompt."
                ),
            ));
        }
        Ok(())
    }

    /// The engine's sampling parameters for the tokenized prompt.
    pub(crate) fn check_prompt(&self, limits: &Limits, prompt: &[u32]) -> Result<octavo_wire::Sampling, Failure> {
        let (limit, length) = (limits.max_model_len, prompt.len());
        let context = format!("This model's maximum context length is {limit} tokens.");
        if length == 0 {
            return Err(invalid("prompt", "The prompt is empty: it needs at least one token.".into()));
        }
        if length >= limit {
            return Err(invalid(
                "prompt",
                format!(
                    "{context} However, your prompt has {length} tokens, which leaves no room for an answer. Please \
                     shorten the prompt."
                ),
            ));
        }
        let mut sampling = self.sampling.engine.clone();
        limits.check_ids("prompt", prompt.iter().copied())?;
        limits.check_ids("stop_token_ids", sampling.stop_token_ids.iter().copied())?;
        limits.check_ids("logit_bias", sampling.logit_bias.iter().map(|(token, _)| *token))?;
        let rest = u32::try_from(limit - length).unwrap_or(u32::MAX);
        sampling.max_tokens = match self.sampling.max_tokens {
            Some(wanted) if wanted > rest && !self.clamp_max_tokens => {
                let total = length + wanted as usize;
                return Err(invalid(
                    "max_tokens",
                    format!(
                        "{context} However, you requested {total} tokens ({length} in the prompt, {wanted} in the \
                         completion). Please shorten the prompt or lower max_tokens."
                    ),
                ));
            }
            wanted => wanted.unwrap_or(rest).min(rest),
        };
        sampling.min_tokens = sampling.min_tokens.min(sampling.max_tokens);
        Ok(sampling)
    }
}

impl Limits {
    /// Cuts a prompt as its request asks for.
    pub(crate) fn truncate(&self, sampling: &Sampling, prompt: &mut Vec<u32>) {
        let Some(Truncation { limit, side }) = sampling.truncation else { return };
        let room = self.max_model_len.saturating_sub(sampling.max_tokens.unwrap_or(1) as usize).max(1);
        let limit = limit.map_or(room, |limit| limit as usize);
        match side {
            Side::Left => drop(prompt.drain(..prompt.len().saturating_sub(limit))),
            Side::Right => prompt.truncate(limit),
        }
    }

    fn check_ids(&self, param: &'static str, mut ids: impl Iterator<Item = u32>) -> Result<(), Failure> {
        let size = self.vocab_size;
        match ids.find(|id| *id as usize >= size) {
            Some(id) => Err(invalid(param, format!("{param}: token id {id} is out of range, the model has {size}."))),
            None => Ok(()),
        }
    }
}
