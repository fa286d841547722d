//! A grammar after some tokens, and the mask of those that may follow.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use llguidance::TokenParser;
use llguidance::api::StopReason;
use llguidance::toktrie::SimpleVob;

const MAX_MESSAGE: usize = 600;

/// The lexer that all turns of a grammar share.
#[derive(Default)]
pub(crate) struct Lexer {
    /// What it takes, which grows while it is used.
    pub num_bytes: AtomicUsize,
    /// A turn failed: it has too many states, or something broke.
    pub failed: AtomicBool,
}

/// A grammar after some tokens.
pub struct Turn {
    lexer: Arc<Lexer>,
    done: OnceLock<Done>,
}

struct Done {
    /// Whoever goes on last takes it, the others take a copy.
    parser: Mutex<Option<TokenParser>>,
    mask: Result<Box<[u32]>, String>,
}

impl Turn {
    pub(crate) fn new(lexer: Arc<Lexer>) -> Self {
        Turn { lexer, done: OnceLock::new() }
    }

    pub(crate) fn lexer(&self) -> &Arc<Lexer> {
        &self.lexer
    }

    /// The tokens that may follow: token i where bit i % 32 of word i / 32 is set. An error is the end of the request.
    /// Waits until a thread has worked it out.
    pub fn wait(&self) -> Result<&[u32], &str> {
        self.done.wait().mask.as_deref().map_err(String::as_str)
    }
}

impl std::fmt::Debug for Turn {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Turn").field("is_done", &self.done.get().is_some()).finish_non_exhaustive()
    }
}

impl Turn {
    /// The parser, to go on with: a copy while others may go on from here, too. `None` after an error.
    pub(crate) fn take_parser(self: &Arc<Self>) -> Option<TokenParser> {
        let mut parser = self.done.wait().parser.lock().unwrap_or_else(PoisonError::into_inner);
        if Arc::strong_count(self) == 1 { parser.take() } else { parser.clone() }
    }

    /// Works it out, from the turn before `token`; the tokens in `banned` may not follow unless nothing else may.
    pub(crate) fn finish(&self, mut parser: TokenParser, token: Option<u32>, banned: &[u32]) {
        let work = AssertUnwindSafe(|| mask_after(&mut parser, token));
        match llguidance::panic_utils::catch_unwind(work) {
            Ok(mut mask) => {
                ban(&mut mask, banned);
                self.lexer.num_bytes.store(parser.parser.lexer_stats().num_bytes, Ordering::Relaxed);
                let mask = Ok(mask.as_slice().into());
                let _first = self.done.set(Done { parser: Mutex::new(Some(parser)), mask });
            }
            Err(error) => self.fail(message(&error)),
        }
    }

    pub(crate) fn fail(&self, message: String) {
        self.lexer.failed.store(true, Ordering::Relaxed);
        let _first = self.done.set(Done { parser: Mutex::new(None), mask: Err(message) });
    }
}

/// The tokens that may follow `token`: the end-of-sequence tokens alone when the grammar has come to its end.
fn mask_after(parser: &mut TokenParser, token: Option<u32>) -> anyhow::Result<SimpleVob> {
    if let Some(token) = token {
        parser.consume_token(token)?;
        parser.check_stop()?;
    }
    if matches!(parser.stop_reason(), StopReason::NoExtension | StopReason::NoExtensionBias) {
        return Ok(parser.token_env.tok_trie().eos_token_set());
    }
    parser.compute_mask()
}

/// Takes tokens out of a mask, if it keeps others.
fn ban(mask: &mut SimpleVob, banned: &[u32]) {
    let known = || banned.iter().copied().filter(|&token| (token as usize) < mask.len() && mask.is_allowed(token));
    let dropped: Vec<u32> = known().collect();
    dropped.iter().for_each(|&token| mask.disallow_token(token));
    if mask.is_zero() {
        dropped.iter().for_each(|&token| mask.allow_token(token));
    }
}

/// One line of an error, without the backtrace that a panic inside llguidance brings along.
pub(crate) fn message(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    let lines = text.lines().map(str::trim).take_while(|line| !matches!(*line, "<backtrace>" | "<state>"));
    let mut line = lines.filter(|line| !line.is_empty() && *line != "<non-verbose/>").collect::<Vec<_>>().join(" ");
    if let Some(place) = line.char_indices().map(|(place, _)| place).nth(MAX_MESSAGE) {
        line.truncate(place);
        line.push('…');
    }
    line
}
