//! Text to tokens and back: tokenizer, incremental detokenizer, stop strings, and the front end which speaks frames.
//!
//! In the order of a request's life: `request` and `sampling` (what is asked, checked; `beams` for a beam search) → `frontend` (its number, its
//! way to the engine and back) → `tokenize` (opened by `vocabulary`, from `strings` of a GGUF file) → … the engine … → `choice` (one of its n answers), which calls `detokenize`
//! `stop` and `repeats` → `ranking` (the best of several) → `event` (what the caller sees).

mod request;
mod sampling;

mod beams;

mod frontend;
mod strings;
mod tokenize;
mod vocabulary;

mod choice;
mod detokenize;
mod ranking;
mod repeats;
mod stop;

mod event;

pub use detokenize::Detokenizer;
pub use event::{Accepted, Delta, EndReason, Event, Failed, FailedReason, Pooled, StopReason};
pub use frontend::Frontend;
pub use request::{Limits, Prompt, Request};
pub use sampling::{InvalidParam, RepetitionDetection, Sampling, SamplingOptions, Side};
pub use stop::{StopMatcher, StopStrings};
pub use strings::StringList;
pub use tokenize::{Token, Tokenizer, TokenizerError};
