//! What a caller hears of its requests, and the queue in which it waits.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use octavo_wire::{RequestId, Timings, TokenLogprobs};

#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Accepted(Accepted),
    Delta(Delta),
    Pooled(Pooled),
    Failed(Failed),
}

/// The request is tokenized, checked, and on its way to the engine. Its first event, unless it was aborted or failed
/// before.
#[derive(Clone, Debug, PartialEq)]
pub struct Accepted {
    pub request: RequestId,
    pub prompt_token_ids: Vec<u32>,
}

/// What a prompt was pooled to. The last event of its request.
#[derive(Clone, Debug, PartialEq)]
pub struct Pooled {
    pub request: RequestId,
    pub num_prompt_tokens: usize,
    pub num_cached_tokens: u32,
    /// The sizes whose product is the length of `data`.
    pub shape: Vec<u32>,
    pub data: Vec<f32>,
}

/// News of one choice of one request.
#[derive(Clone, Debug, PartialEq)]
pub struct Delta {
    pub request: RequestId,
    pub index: u32,
    /// May be empty while a character or a possible stop string is incomplete.
    pub text: String,
    pub token_ids: Vec<u32>,
    /// One a token; `None` when the request did not ask.
    pub logprobs: Option<Vec<TokenLogprobs>>,
    /// Those of the prompt's next tokens, from its second on: all are there before the first choice's first token.
    pub prompt_logprobs: Vec<TokenLogprobs>,
    pub num_cached_tokens: u32,
    /// `Some`: the last event of this choice.
    pub finish_reason: Option<EndReason>,
    /// What ended it, if not the end-of-sequence token.
    pub stop_reason: Option<StopReason>,
    /// With `finish_reason` only.
    pub timings: Option<Timings>,
}

impl Delta {
    /// Appends the choice's next news.
    pub(crate) fn extend(&mut self, later: Delta) {
        self.text.push_str(&later.text);
        self.token_ids.extend(later.token_ids);
        match (&mut self.logprobs, later.logprobs) {
            (Some(entries), Some(more)) => entries.extend(more),
            (none @ None, more) => *none = more,
            (Some(_), None) => {}
        }
        self.prompt_logprobs.extend(later.prompt_logprobs);
        self.num_cached_tokens = later.num_cached_tokens;
        self.finish_reason = later.finish_reason;
        self.stop_reason = later.stop_reason;
        self.timings = later.timings;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    Stop,
    Length,
    Abort,
}

impl EndReason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Abort => "abort",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    Token(u32),
    Text(String),
}

/// The last event of a request that was refused or broke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    pub request: RequestId,
    pub reason: FailedReason,
    /// The parameter at fault, by its OpenAI name.
    pub param: Option<Cow<'static, str>>,
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailedReason {
    Invalid,
    QueueFull,
    Draining,
    Internal,
    EngineDied,
}

impl FailedReason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::QueueFull => "queue_full",
            Self::Draining => "draining",
            Self::Internal => "internal",
            Self::EngineDied => "engine_died",
        }
    }
}

/// Events that wait for the caller, at most one delta a choice: news of a caller that lags behind grows its deltas, not
/// their number, so that what it has to do for each `drain` is bounded by what is open. An eventfd is readable exactly while there is something to fetch: both change
/// under one lock, so no wake-up is lost, and a burst costs one system call.
pub(crate) struct EventQueue {
    state: Mutex<State>,
    signal: OwnedFd,
}

#[derive(Default)]
struct State {
    events: Vec<Event>,
    /// Where in `events` the delta of each choice waits.
    waiting: HashMap<(RequestId, u32), usize>,
    signalled: bool,
}

impl State {
    fn add(&mut self, event: Event) {
        let Event::Delta(delta) = event else { return self.events.push(event) };
        match self.waiting.entry((delta.request, delta.index)) {
            Entry::Occupied(place) => {
                if let Event::Delta(earlier) = &mut self.events[*place.get()] {
                    earlier.extend(delta);
                }
            }
            Entry::Vacant(place) => {
                place.insert(self.events.len());
                self.events.push(Event::Delta(delta));
            }
        }
    }
}

impl EventQueue {
    pub fn new() -> io::Result<Self> {
        // SAFETY: the call takes no pointer.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call above returned a new descriptor that nobody else owns.
        Ok(Self { state: Mutex::default(), signal: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn push(&self, event: Event) {
        let mut state = self.lock();
        state.add(event);
        self.raise(&mut state);
    }

    /// Moves all of `events` in.
    pub fn append(&self, events: &mut Vec<Event>) {
        if !events.is_empty() {
            let mut state = self.lock();
            events.drain(..).for_each(|event| state.add(event));
            self.raise(&mut state);
        }
    }

    /// Wakes the caller although there may be no event: something beside the events has changed.
    pub fn wake(&self) {
        self.raise(&mut self.lock());
    }

    pub fn drain(&self) -> Vec<Event> {
        let mut state = self.lock();
        if state.signalled {
            state.signalled = false;
            let mut count = 0u64;
            // SAFETY: `count` has the 8 bytes that an eventfd gives. It cannot block: the descriptor does not.
            unsafe { libc::read(self.signal.as_raw_fd(), (&raw mut count).cast(), size_of::<u64>()) };
        }
        state.waiting.clear();
        std::mem::take(&mut state.events)
    }

    fn raise(&self, state: &mut State) {
        if !state.signalled {
            state.signalled = true;
            let count = 1u64;
            // SAFETY: `count` has the 8 bytes that an eventfd takes.
            unsafe { libc::write(self.signal.as_raw_fd(), (&raw const count).cast(), size_of::<u64>()) };
        }
    }

    /// Blocks until `drain` has something; false when `timeout` passed first.
    pub fn wait(&self, timeout: Duration) -> bool {
        let deadline = Instant::now().checked_add(timeout);
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let milliseconds = left.map_or(-1, |left| left.as_micros().div_ceil(1000).try_into().unwrap_or(i32::MAX));
            let mut poll = libc::pollfd { fd: self.signal.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: `poll` is one pollfd and outlives the call.
            if unsafe { libc::poll(&mut poll, 1, milliseconds) } > 0 {
                return true;
            }
            if left.is_some_and(|left| left.is_zero()) {
                return false;
            }
        }
    }

    pub fn fileno(&self) -> RawFd {
        self.signal.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn event(request: RequestId) -> Event {
        Event::Accepted(Accepted { request, prompt_token_ids: vec![] })
    }

    #[test]
    fn readable_exactly_while_there_is_something() {
        let queue = EventQueue::new().unwrap();
        assert!(!queue.wait(Duration::ZERO));
        queue.push(event(1));
        queue.append(&mut vec![event(2), event(3)]);
        assert!(queue.wait(Duration::ZERO) && queue.wait(Duration::ZERO));
        assert_eq!(queue.drain(), [event(1), event(2), event(3)]);
        assert!(!queue.wait(Duration::ZERO));
        assert!(queue.drain().is_empty());
        queue.append(&mut vec![]);
        assert!(!queue.wait(Duration::ZERO));
        queue.wake();
        assert!(queue.wait(Duration::ZERO));
        assert!(queue.drain().is_empty());
        assert!(!queue.wait(Duration::ZERO));
    }

    fn delta(index: u32, text: &str, finish_reason: Option<EndReason>) -> Event {
        Event::Delta(Delta {
            request: 1,
            index,
            text: text.into(),
            token_ids: vec![index; text.len()],
            logprobs: None,
            prompt_logprobs: vec![],
            num_cached_tokens: 0,
            finish_reason,
            stop_reason: None,
            timings: None,
        })
    }

    #[test]
    fn a_caller_that_lags_gets_one_delta_a_choice() {
        let queue = EventQueue::new().unwrap();
        queue.push(event(1));
        queue.append(&mut vec![delta(0, "a", None), delta(1, "x", None), delta(0, "bc", None)]);
        queue.append(&mut vec![delta(1, "y", Some(EndReason::Stop)), event(2), delta(0, "d", None)]);
        let merged = [event(1), delta(0, "abcd", None), delta(1, "xy", Some(EndReason::Stop)), event(2)];
        assert_eq!(queue.drain(), merged);
        queue.push(delta(0, "e", None));
        assert_eq!(queue.drain(), [delta(0, "e", None)]);
    }

    #[test]
    fn no_wake_up_is_lost_between_threads() {
        const COUNT: u64 = 20_000;
        let queue = Arc::new(EventQueue::new().unwrap());
        let producers: Vec<_> = (0..2)
            .map(|producer| {
                let queue = queue.clone();
                std::thread::spawn(move || (0..COUNT).for_each(|i| queue.push(event(producer * COUNT + i))))
            })
            .collect();
        let mut next = [0, COUNT];
        while next != [COUNT, 2 * COUNT] {
            assert!(queue.wait(Duration::from_secs(20)), "an event waits, but nothing signals it");
            for event in queue.drain() {
                let Event::Accepted(accepted) = event else { panic!("only these were pushed") };
                let producer = usize::from(accepted.request >= COUNT);
                assert_eq!(accepted.request, next[producer]);
                next[producer] += 1;
            }
        }
        producers.into_iter().for_each(|producer| producer.join().unwrap());
        assert!(!queue.wait(Duration::ZERO));
    }
}
