//! A grammar after some tokens, and the mask of those that may follow.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use llguidance::api::StopReason;
use llguidance::toktrie::SimpleVob;
use llguidance::{CancellationHandle, Cancelled, TokenParser};

const MAX_MESSAGE: usize = 600;
/// Usual masks take less than a millisecond. A step of all requests waits for the slowest of its own.
pub(crate) const MAX_MASK: Duration = Duration::from_millis(500);

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
    /// Since when a thread works it out, and what stops it.
    work: Mutex<Option<(Instant, CancellationHandle)>>,
    done: OnceLock<Done>,
    news: Condvar,
}

struct Done {
    /// Whoever goes on last takes it, the others take a copy.
    parser: Mutex<Option<TokenParser>>,
    mask: Result<Box<[u32]>, String>,
}

impl Turn {
    pub(crate) fn new(lexer: Arc<Lexer>) -> Self {
        Turn { lexer, work: Mutex::default(), done: OnceLock::new(), news: Condvar::new() }
    }

    pub(crate) fn lexer(&self) -> &Arc<Lexer> {
        &self.lexer
    }

    /// The tokens that may follow: token i where bit i % 32 of word i / 32 is set. An error is the end of the request.
    /// Waits until a thread has worked it out; one that takes too long at it is stopped, for others wait as well.
    pub fn wait(&self) -> Result<&[u32], &str> {
        self.wait_done().mask.as_deref().map_err(String::as_str)
    }

    fn wait_done(&self) -> &Done {
        let mut work = self.work();
        loop {
            if let Some(done) = self.done.get() {
                return done;
            }
            if let Some((_, stop)) = work.as_ref().filter(|(began, _)| began.elapsed() > MAX_MASK) {
                stop.cancel();
            }
            work = self.news.wait_timeout(work, MAX_MASK / 4).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn work(&self) -> MutexGuard<'_, Option<(Instant, CancellationHandle)>> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
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
        let mut parser = self.wait_done().parser.lock().unwrap_or_else(PoisonError::into_inner);
        if Arc::strong_count(self) == 1 { parser.take() } else { parser.clone() }
    }

    /// Works it out, from the turn before `token`; the tokens in `banned` may not follow unless nothing else may.
    pub(crate) fn finish(&self, mut parser: TokenParser, token: Option<u32>, banned: &[u32]) {
        if self.lexer.failed.load(Ordering::Relaxed) {
            return self.fail("another request with this structure has failed".into());
        }
        *self.work() = Some((Instant::now(), parser.enable_cancellation()));
        let work = AssertUnwindSafe(|| mask_after(&mut parser, token));
        match llguidance::panic_utils::catch_unwind(work) {
            Ok(mut mask) => {
                ban(&mut mask, banned);
                self.lexer.num_bytes.store(parser.parser.lexer_stats().num_bytes, Ordering::Relaxed);
                let mask = Ok(mask.as_slice().into());
                self.set(Done { parser: Mutex::new(Some(parser)), mask });
            }
            Err(error) if error.is::<Cancelled>() => {
                self.fail(format!("a step of the grammar takes more than {} milliseconds", MAX_MASK.as_millis()));
            }
            Err(error) => self.fail(message(&error)),
        }
    }

    pub(crate) fn fail(&self, message: String) {
        self.lexer.failed.store(true, Ordering::Relaxed);
        self.set(Done { parser: Mutex::new(None), mask: Err(message) });
    }

    fn set(&self, done: Done) {
        // Under the lock, so that nobody begins to wait between the two.
        let _work = self.work();
        let _first = self.done.set(done);
        self.news.notify_all();
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
