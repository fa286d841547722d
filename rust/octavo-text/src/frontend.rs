//! The clients' side: numbers requests, has them tokenized, sends them to the engine, and turns its reports into events.
//!
//! Threads: the caller's (never blocked), `threads` tokenizers, and one receiver a connection. They share one state
//! under one lock, which no thread holds while it tokenizes or waits. Events enter their queue under that lock, so their
//! order is the order of what happened.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::RawFd;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use octavo_wire::{
    Command, Endpoint, FailReason, PooledOutput, Pooling, Receiver, Report, RequestId, SendError, Sender, Stats,
    StepOutput, Submission, monotonic,
};

use crate::choice::{Choice, aborted};
use crate::event::{Accepted, Event, EventQueue, Failed, FailedReason, Pooled};
use crate::ranking::Ranking;
use crate::request::{Failure, Limits, Request, invalid, tokenize_words};
use crate::sampling::Sampling;
use crate::tokenize::{Tokenizer, TokenizerError};

/// See the module. Dropping it closes the connection; its threads end on their own.
pub struct Frontend {
    shared: Arc<Shared>,
}

struct Shared {
    tokenizer: Option<Arc<Tokenizer>>,
    limits: Limits,
    state: Mutex<State>,
    events: EventQueue,
    jobs: Jobs,
}

#[derive(Default)]
struct State {
    last_request: RequestId,
    /// Counts connections: what an old one still says is not heard.
    connection: u64,
    /// `None` while there is no engine.
    sender: Option<Sender>,
    open: HashMap<RequestId, Open>,
    ready: Option<String>,
    stats: Option<Stats>,
}

/// A request without a last event.
struct Open {
    sampling: Arc<Sampling>,
    arrival: f64,
    num_prompt: usize,
    /// Empty until the request is sent.
    choices: Vec<Choice>,
    num_open: u32,
    /// With `best_of`.
    ranking: Option<Ranking>,
}

/// A request on its way to the engine; one with text waits for a tokenizer thread.
struct Job {
    id: RequestId,
    request: Request,
    arrival: f64,
}

#[derive(Default)]
struct Jobs {
    state: Mutex<(VecDeque<Job>, bool)>,
    changed: Condvar,
}

impl Jobs {
    fn push(&self, job: Job) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0.push_back(job);
        self.changed.notify_one();
    }

    /// Blocks; `None` once closed.
    fn pop(&self) -> Option<Job> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if state.1 {
                return None;
            }
            if let Some(job) = state.0.pop_front() {
                return Some(job);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn close(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        self.changed.notify_all();
    }
}

impl Frontend {
    /// Without a tokenizer prompts must be token ids, and text stays empty.
    pub fn new(
        endpoint: Endpoint,
        tokenizer: Option<Arc<Tokenizer>>,
        limits: Limits,
        threads: usize,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            tokenizer,
            limits,
            state: Mutex::default(),
            events: EventQueue::new()?,
            jobs: Jobs::default(),
        });
        let frontend = Self { shared };
        if frontend.shared.tokenizer.is_some() {
            for index in 0..threads.max(1) {
                let shared = frontend.shared.clone();
                std::thread::Builder::new()
                    .name(format!("octavo-tokenize-{index}"))
                    .spawn(move || while shared.jobs.pop().map(|job| shared.tokenize(job)).is_some() {})?;
            }
        }
        frontend.reconnect(endpoint)?;
        Ok(frontend)
    }

    /// Returns the request's number at once; every outcome is an event. Numbers are never used again.
    pub fn submit(&self, request: Request) -> RequestId {
        let arrival = monotonic();
        let mut state = self.shared.lock();
        state.last_request += 1;
        let id = state.last_request;
        let sampling = request.sampling.clone();
        let num_open = sampling.engine.n;
        let ranking = (num_open > sampling.num_returned).then(Ranking::default);
        let open = Open { sampling, arrival, num_prompt: 0, choices: Vec::new(), num_open, ranking };
        let is_connected = state.sender.is_some();
        state.open.insert(id, open);
        drop(state);
        if !is_connected {
            self.shared.fail(id, engine_died());
        } else {
            self.shared.take(Job { id, request, arrival });
        }
        id
    }

    /// Ends a request: its choices end with `EndReason::Abort`. Unknown and ended numbers are ignored.
    pub fn abort(&self, request: RequestId) {
        let mut state = self.shared.lock();
        match state.open.get(&request) {
            None => {}
            Some(open) if open.choices.is_empty() => {
                let (n, arrival, time) = (open.sampling.num_returned, open.arrival, monotonic());
                state.open.remove(&request);
                let ends = (0..n).map(|index| Event::Delta(aborted(request, index, arrival, time)));
                self.shared.events.append(&mut ends.collect());
            }
            Some(_) => state.send(&Command::Abort { request }),
        }
    }

    /// The events since the last call, in order.
    pub fn drain(&self) -> Vec<Event> {
        self.shared.events.drain()
    }

    /// Blocks until `drain` has something, or `ready` or `connected` has changed; false when `timeout` passed first.
    pub fn wait(&self, timeout: Duration) -> bool {
        self.shared.events.wait(timeout)
    }

    /// A descriptor, the front end's own, that is readable when `wait` would not block. `drain` resets it.
    pub fn fileno(&self) -> RawFd {
        self.shared.events.fileno()
    }

    /// What the engine said when it had loaded; `None` before.
    pub fn ready(&self) -> Option<String> {
        self.shared.lock().ready.clone()
    }

    /// The engine's newest state.
    pub fn stats(&self) -> Option<Stats> {
        self.shared.lock().stats
    }

    pub fn connected(&self) -> bool {
        self.shared.lock().sender.is_some()
    }

    /// Requests without a last event.
    pub fn num_open(&self) -> usize {
        self.shared.lock().open.len()
    }

    /// Speaks to a new engine. Requests that the old one still had fail.
    pub fn reconnect(&self, endpoint: Endpoint) -> io::Result<()> {
        let (sender, receiver) = endpoint.split();
        let mut state = self.shared.lock();
        let old = self.shared.disconnect(&mut state);
        state.connection += 1;
        state.sender = Some(sender);
        state.ready = None;
        state.stats = None;
        let connection = state.connection;
        drop(state);
        drop(old);
        let shared = self.shared.clone();
        let thread = std::thread::Builder::new().name("octavo-receive".into());
        thread.spawn(move || shared.receive(receiver, connection))?;
        Ok(())
    }

    pub fn reset_prefix_cache(&self) {
        self.shared.lock().send(&Command::ResetPrefixCache);
    }

    /// Tells the engine to finish what runs and close.
    pub fn drain_engine(&self) {
        self.shared.lock().send(&Command::Drain);
    }
}

impl Drop for Frontend {
    fn drop(&mut self) {
        self.shared.jobs.close();
        let sender = self.shared.lock().sender.take();
        drop(sender);
    }
}

impl State {
    /// A failure needs no answer here: the connection is closed then, which the receiver thread hears too.
    fn send(&mut self, command: &Command) {
        if let Some(sender) = &mut self.sender {
            let _closed = sender.send_command(command);
        }
    }
}

fn engine_died() -> Failure {
    (FailedReason::EngineDied, None, "The engine is not running.".into())
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first look at a request: refuses what needs no tokenizing, and hands text to the tokenizer threads.
    fn take(&self, mut job: Job) {
        if let Err(failure) = job.request.check(&self.limits, self.tokenizer.as_deref()) {
            return self.fail(job.id, failure);
        }
        match job.request.take_ids() {
            Some(ids) => self.admit(job, ids, usize::MAX, Vec::new()),
            None => self.jobs.push(job),
        }
    }

    /// On a tokenizer thread. A panic of the tokenizer is that request's failure only.
    fn tokenize(&self, job: Job) {
        let Some(tokenizer) = self.tokenizer.as_ref().filter(|_| self.lock().open.contains_key(&job.id)) else {
            return;
        };
        let encode = || {
            let (ids, num_first) = job.request.encode(&self.limits, tokenizer)?;
            Ok((ids, num_first, tokenize_words(&job.request.sampling.bad_words, tokenizer)?))
        };
        let result: Result<Result<_, TokenizerError>, _> = std::panic::catch_unwind(AssertUnwindSafe(encode));
        match result {
            Ok(Ok((ids, num_first, bad_words))) => self.admit(job, ids, num_first, bad_words),
            Ok(Err(error)) => self.fail(job.id, invalid("prompt", format!("The prompt cannot be tokenized: {error}."))),
            Err(_) => {
                let message = "The tokenizer failed on this prompt.".to_owned();
                self.fail(job.id, (FailedReason::Internal, Some("prompt".into()), message));
            }
        }
    }

    /// Checks a tokenized request and sends it. `num_first`: tokens of the first text.
    fn admit(&self, job: Job, mut prompt: Vec<u32>, num_first: usize, bad_words: Vec<Vec<u32>>) {
        let sampling = &job.request.sampling;
        self.limits.truncate(&job.request, &mut prompt);
        let mut checked = match job.request.check_prompt(&self.limits, &prompt) {
            Ok(checked) => checked,
            Err(failure) => return self.fail(job.id, failure),
        };
        checked.bad_words = bad_words;
        let new_choice = || Choice::new(sampling, self.tokenizer.as_ref(), &prompt);
        let choices = (0..checked.n).map(|_| new_choice()).collect();
        let num_first = num_first.min(prompt.len()) as u32;
        let pooling = job.request.pooling.map(|pooling| Pooling { num_first, ..pooling });
        let accepted = Accepted { request: job.id, prompt_token_ids: prompt.clone() };
        let command = Command::Submit(Box::new(Submission {
            request: job.id,
            prompt,
            sampling: checked,
            pooling,
            priority: job.request.priority,
            arrival: job.arrival,
            cache_salt: job.request.cache_salt,
        }));
        let mut state = self.lock();
        // Gone in the meantime: aborted, or failed with its engine.
        let Some(open) = state.open.get_mut(&job.id) else { return };
        open.choices = choices;
        open.num_prompt = accepted.prompt_token_ids.len();
        self.events.push(Event::Accepted(accepted));
        if let Some(Err(SendError::Frame(error))) = state.sender.as_mut().map(|sender| sender.send_command(&command)) {
            drop(state);
            self.fail(job.id, invalid("prompt", format!("The request is too large for the engine: {error}.")));
        }
    }

    /// The last event of a request, unless it had one already.
    fn fail(&self, request: RequestId, (reason, param, message): Failure) {
        let mut state = self.lock();
        if state.open.remove(&request).is_some() {
            self.events.push(Event::Failed(Failed { request, reason, param, message }));
        }
    }

    /// The receiver thread of one connection. A frame that cannot be read would leave a request without its end, so it
    /// ends the connection.
    fn receive(&self, mut receiver: Receiver, connection: u64) {
        while let Ok(report) = receiver.recv_report(None) {
            let mut state = self.lock();
            if state.connection != connection {
                return;
            }
            match report {
                None => {}
                Some(Report::Ready { info }) => {
                    state.ready = Some(info);
                    self.events.wake();
                }
                Some(Report::Idle(stats)) => state.stats = Some(*stats),
                Some(Report::Step(step)) => self.take_step(&mut state, *step),
                Some(Report::Pooled(output)) => self.take_pooled(&mut state, *output),
                Some(Report::Failed { request, reason, param, message }) => {
                    drop(state);
                    self.fail(request, (failed_reason(reason), param.map(Cow::Owned), message));
                }
            }
        }
        let mut state = self.lock();
        if state.connection == connection {
            let sender = self.disconnect(&mut state);
            drop(state);
            drop(sender);
            self.events.wake();
        }
    }

    fn take_step(&self, state: &mut State, step: StepOutput) {
        let mut events = Vec::with_capacity(step.outputs.len());
        let mut stops = Vec::new();
        for output in step.outputs {
            let (request, index) = (output.request, output.choice);
            let Some(open) = state.open.get_mut(&request) else { continue };
            let Some(choice) = open.choices.get_mut(index as usize) else { continue };
            let Some(turn) = choice.take(output, &open.sampling, open.arrival, step.stats.time) else { continue };
            if turn.is_stopped_here {
                stops.push(Command::Stop { request, choice: index });
            }
            open.num_open -= u32::from(turn.is_last);
            match (&mut open.ranking, turn.delta) {
                (Some(ranking), Some(delta)) => ranking.take(delta),
                (None, Some(delta)) => events.push(Event::Delta(delta)),
                (_, None) => {}
            }
            if open.num_open == 0
                && let Some(Open { ranking: Some(ranking), sampling, .. }) = state.open.remove(&request)
            {
                events.extend(ranking.best(&sampling).map(Event::Delta));
            }
        }
        state.stats = Some(step.stats);
        self.events.append(&mut events);
        stops.iter().for_each(|stop| state.send(stop));
    }

    fn take_pooled(&self, state: &mut State, output: PooledOutput) {
        let PooledOutput { request, shape, data, num_cached_tokens } = output;
        let Some(open) = state.open.remove(&request) else { return };
        let num_prompt_tokens = open.num_prompt;
        self.events.push(Event::Pooled(Pooled { request, num_prompt_tokens, num_cached_tokens, shape, data }));
    }

    /// Forgets the engine and fails what it had. Returns the sender, to be dropped without the lock.
    fn disconnect(&self, state: &mut State) -> Option<Sender> {
        let mut requests: Vec<RequestId> = state.open.drain().map(|(request, _)| request).collect();
        requests.sort_unstable();
        let mut events = requests.into_iter().map(|request| {
            let (reason, param, message) = engine_died();
            Event::Failed(Failed { request, reason, param, message })
        });
        self.events.append(&mut events.by_ref().collect());
        state.sender.take()
    }
}

fn failed_reason(reason: FailReason) -> FailedReason {
    match reason {
        FailReason::QueueFull => FailedReason::QueueFull,
        FailReason::Draining => FailedReason::Draining,
        FailReason::Invalid => FailedReason::Invalid,
        FailReason::Internal => FailedReason::Internal,
    }
}
