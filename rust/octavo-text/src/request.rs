//! A request as the caller gives it, and the checks which need the model's limits and the tokenized prompt.

use std::borrow::Cow;
use std::sync::Arc;

use octavo_wire::Pooling;

use crate::event::FailedReason;
use crate::sampling::{Sampling, Side, Truncation, WHOLE_VOCABULARY};
use crate::tokenize::{Tokenizer, TokenizerError};

const MAX_SALT_BYTES: usize = 1024;
/// Log-probabilities of one prompt: some hundreds of megabytes of JSON.
const MAX_PROMPT_LOGPROBS: usize = 1 << 22;

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
    /// Two texts of one prompt, to be compared: the tokenizer says what stands around them.
    Pair(String, String),
    Ids(Vec<u32>),
}

#[derive(Clone, Debug)]
pub struct Request {
    pub prompt: Prompt,
    pub sampling: Arc<Sampling>,
    /// `Some`: the prompt is pooled, and `sampling` says nothing. `num_first` is filled in from the tokens' types.
    pub pooling: Option<Pooling>,
    /// For text: also the tokens which the tokenizer puts around it.
    pub add_special_tokens: bool,
    /// Cut `max_tokens` to the rest of the context instead of refusing the request.
    pub clamp_max_tokens: bool,
    pub priority: i32,
    pub cache_salt: String,
}

/// Why a request has failed: the fields of the event `Failed`.
pub(crate) type Failure = (FailedReason, Option<Cow<'static, str>>, String);

pub(crate) fn invalid(param: &'static str, message: String) -> Failure {
    (FailedReason::Invalid, Some(param.into()), message)
}

impl Request {
    pub fn new(prompt: Prompt, sampling: Arc<Sampling>) -> Self {
        let cache_salt = String::new();
        Self {
            prompt,
            sampling,
            pooling: None,
            add_special_tokens: true,
            clamp_max_tokens: false,
            priority: 0,
            cache_salt,
        }
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
        if tokenizer.is_none() && !self.sampling.bad_words.is_empty() {
            return Err(invalid("bad_words", "Bad words need a tokenizer, and there is none.".into()));
        }
        let length = match &self.prompt {
            Prompt::Ids(_) => return Ok(()),
            Prompt::Text(text) => text.len(),
            Prompt::Pair(first, second) => first.len() + second.len(),
        };
        let Some(tokenizer) = tokenizer else {
            return Err(invalid("prompt", "The prompt must be token ids: there is no tokenizer.".into()));
        };
        let limit = limits.max_model_len;
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

    /// The tokens of a prompt, if no tokenizer is needed for it.
    pub(crate) fn take_ids(&mut self) -> Option<Vec<u32>> {
        match &mut self.prompt {
            Prompt::Ids(ids) if self.sampling.bad_words.is_empty() => Some(std::mem::take(ids)),
            Prompt::Ids(_) | Prompt::Text(_) | Prompt::Pair(..) => None,
        }
    }

    /// The tokens of a prompt, and how many of them are of the first text.
    ///
    /// A prompt to be pooled is cut here, so that the special tokens around it stay; another one afterwards.
    pub(crate) fn encode(&self, limits: &Limits, tokenizer: &Tokenizer) -> Result<(Vec<u32>, usize), TokenizerError> {
        let (first, second) = match &self.prompt {
            Prompt::Text(text) => (text.as_str(), None),
            Prompt::Pair(first, second) => (first.as_str(), Some(second.as_str())),
            Prompt::Ids(ids) => return Ok((ids.clone(), usize::MAX)),
        };
        let cut = if self.pooling.is_some() { limits.cut(self) } else { None };
        tokenizer.encode_parts(first, second, self.add_special_tokens, cut)
    }

    /// The engine's sampling parameters for the tokenized prompt, but for the bad words.
    pub(crate) fn check_prompt(&self, limits: &Limits, prompt: &[u32]) -> Result<octavo_wire::Sampling, Failure> {
        let (limit, length) = (limits.max_model_len, prompt.len());
        let context = format!("This model's maximum context length is {limit} tokens.");
        if length == 0 {
            return Err(invalid("prompt", "The prompt is empty: it needs at least one token.".into()));
        }
        if self.pooling.is_some() && length > limit {
            let message = format!("{context} However, your prompt has {length} tokens. Please shorten the prompt.");
            return Err(invalid("prompt", message));
        }
        if self.pooling.is_none() && length >= limit {
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
        if self.pooling.is_some() {
            return Ok(sampling);
        }
        limits.check_ids("stop_token_ids", sampling.stop_token_ids.iter().copied())?;
        limits.check_ids("logprob_token_ids", sampling.logprob_token_ids.iter().copied())?;
        for count in [&mut sampling.logprobs, &mut sampling.prompt_logprobs].into_iter().flatten() {
            *count = if *count == WHOLE_VOCABULARY { limits.vocab_size as u32 } else { *count };
        }
        if length.saturating_mul(sampling.prompt_logprobs.unwrap_or(0) as usize) > MAX_PROMPT_LOGPROBS {
            let message = format!("prompt_logprobs: of {length} tokens these are more than {MAX_PROMPT_LOGPROBS}.");
            return Err(invalid("prompt_logprobs", message));
        }
        limits.check_ids("allowed_token_ids", sampling.allowed_token_ids.iter().copied())?;
        limits.check_ids("logit_bias", sampling.logit_bias.iter().map(|(token, _)| *token))?;
        limits.check_ids("reasoning_end", sampling.reasoning_end.iter().copied())?;
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

/// The tokens of each word, at the beginning of a text and behind a space. vLLM leaves the second out where it has
/// another number of tokens; then the word could be generated, so here both count always.
pub(crate) fn tokenize_words(words: &[String], tokenizer: &Tokenizer) -> Result<Vec<Vec<u32>>, TokenizerError> {
    let mut tokens = Vec::with_capacity(2 * words.len());
    for word in words {
        let word = word.trim_start();
        tokens.push(tokenizer.encode(word, false)?);
        tokens.push(tokenizer.encode(&format!(" {word}"), false)?);
    }
    tokens.retain(|word| !word.is_empty());
    tokens.sort_unstable();
    tokens.dedup();
    Ok(tokens)
}

impl Limits {
    /// How many tokens of a prompt stay at most, and where others go.
    fn cut(&self, request: &Request) -> Option<(usize, Side)> {
        let Truncation { limit, side } = request.sampling.truncation?;
        let answer = if request.pooling.is_some() { 0 } else { request.sampling.max_tokens.unwrap_or(1) as usize };
        let room = self.max_model_len.saturating_sub(answer).max(1);
        Some((limit.map_or(room, |limit| limit as usize), side))
    }

    /// Cuts a prompt as its request asks for.
    pub(crate) fn truncate(&self, request: &Request, prompt: &mut Vec<u32>) {
        match self.cut(request) {
            None => {}
            Some((limit, Side::Left)) => drop(prompt.drain(..prompt.len().saturating_sub(limit))),
            Some((limit, Side::Right)) => prompt.truncate(limit),
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
