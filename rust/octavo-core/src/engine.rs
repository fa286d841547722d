//! The public face of the core. One step is plan, run, commit; two may be in flight.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use octavo_wire::{Command, Endpoint, FailReason, RecvError, Report, RequestId, Sampling, Stats, Submission};
use thiserror::Error;

use crate::arena::{ArenaLayout, Arenas, NUM_ARENAS};
use crate::attention_work::WorkPlanner;
use crate::beam::{self, BeamSearch};
use crate::blocks::BlockTable;
use crate::commit::{self, Outbox, Refusal, ReportSink, STRUCTURE};
use crate::config::{EngineConfig, Policy};
use crate::constraint::{Grammar, Rules};
use crate::grammar::{Compilation, Grammars};
use crate::hash::{BlockHash, BlockHasher};
use crate::plan::{LogprobList, Plan, SampleRow, Step};
use crate::pooling::{self, PoolRow, Pooled};
use crate::prefix::Content;
use crate::queue::Inbox;
use crate::request::{Ending, Request, Requests, Sequence, Turn};
use crate::scheduler::Scheduler;
use crate::stats::now;
use crate::vocabulary::OpenVocabulary;

/// The engine says that it lives this often while no step does, in seconds.
const IDLE_INTERVAL: f64 = 1.0;

/// Why a call to the engine did nothing.
#[derive(Debug, Error)]
pub enum EngineError {
    #[error("{0}")]
    Config(String),
    #[error("epoch {epoch} is not the oldest step in flight")]
    StaleEpoch { epoch: u64 },
    #[error("every arena holds a step that is not committed")]
    NoFreeArena,
    #[error("an arena needs {expected} bytes aligned to 8, this one has {actual}")]
    Arena { expected: usize, actual: usize },
    #[error("the system gave no random bytes: {0}")]
    Random(String),
    #[error("the thread that reads the connection did not start: {0}")]
    Thread(#[from] std::io::Error),
    #[error("{0}")]
    Integrity(String),
}

/// The life of every request. One thread calls it; arrivals come in beside it.
pub struct Engine {
    config: EngineConfig,
    layout: ArenaLayout,
    inbox: Inbox,
    commands: Vec<Command>,
    requests: Requests,
    /// `None`: it knows no vocabulary, so that it takes no structures.
    grammars: Option<Grammars>,
    compiling: Vec<Compiling>,
    scheduler: Scheduler,
    work: Option<WorkPlanner>,
    outbox: Outbox,
    /// By arena.
    steps: [Step; NUM_ARENAS],
    /// Arenas of the steps in flight, oldest first.
    in_flight: VecDeque<usize>,
    epoch: u64,
    num_submitted: u64,
    /// Where the chain of requests without a salt starts.
    root: BlockHash,
    draining: bool,
    closed: bool,
}

/// A request whose structure is being compiled.
struct Compiling {
    submission: Submission,
    number: u64,
    limit: u32,
    compilation: Arc<Compilation>,
}

impl Engine {
    /// An engine that speaks through `endpoint`. Starts the thread that reads it; it ends with the engine or its peer.
    pub fn connect(config: EngineConfig, endpoint: Endpoint) -> Result<Engine, EngineError> {
        let (sender, mut receiver) = endpoint.split();
        let inbox = Inbox::default();
        let engine = Engine::new(config, inbox.clone(), Box::new(sender))?;
        thread::Builder::new().name("octavo-io".into()).spawn(move || {
            loop {
                match receiver.recv_command(None) {
                    Ok(Some(command)) => inbox.push(command),
                    // A frame that is no command is skipped; after one without an end comes `Closed`.
                    Ok(None) | Err(RecvError::Frame(_)) => {}
                    Err(RecvError::Closed) => return inbox.close(),
                }
            }
        })?;
        Ok(engine)
    }

    /// An engine that takes commands from `inbox` and gives reports to `sink`.
    pub fn new(config: EngineConfig, inbox: Inbox, sink: Box<dyn ReportSink>) -> Result<Engine, EngineError> {
        Engine::with_hasher(config, inbox, sink, BlockHasher::from_system()?)
    }

    /// As `new`, with a hasher of the caller's choice.
    pub fn with_hasher(
        config: EngineConfig,
        inbox: Inbox,
        sink: Box<dyn ReportSink>,
        hasher: BlockHasher,
    ) -> Result<Engine, EngineError> {
        config.check()?;
        let layout = ArenaLayout::new(&config);
        Ok(Engine {
            root: hasher.root(""),
            scheduler: Scheduler::new(&config, layout.num_deltas, hasher),
            work: config.device_work.map(WorkPlanner::new),
            config,
            layout,
            inbox,
            commands: Vec::new(),
            requests: Requests::default(),
            grammars: None,
            compiling: Vec::new(),
            outbox: Outbox::new(sink),
            steps: Default::default(),
            in_flight: VecDeque::with_capacity(NUM_ARENAS),
            epoch: 0,
            num_submitted: 0,
            draining: false,
            closed: false,
        })
    }

    /// Lets requests ask for a structure. `open` is called when the first one does, by another thread.
    pub fn set_vocabulary(&mut self, open: OpenVocabulary) {
        let (size, eos) = (self.config.vocab_size, &self.config.eos_token_ids);
        self.grammars = Some(Grammars::new(open, size, eos, self.inbox.clone()));
    }

    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    pub fn arena_layout(&self) -> &ArenaLayout {
        &self.layout
    }

    pub fn num_arenas(&self) -> usize {
        NUM_ARENAS
    }

    /// Tells the front end that the engine serves. `info` is a JSON object.
    pub fn ready(&mut self, info: String) {
        self.outbox.send(&Report::Ready { info });
    }

    /// Drains arrivals and aborts, schedules, and fills an arena. Waits at most `timeout` for work; `None` when there
    /// was none, or the engine is closed. `NoFreeArena` while two steps are in flight.
    pub fn plan(&mut self, timeout: Duration, arenas: &mut dyn Arenas) -> Result<Option<Plan>, EngineError> {
        let arena = (0..NUM_ARENAS).find(|arena| !self.in_flight.contains(arena)).ok_or(EngineError::NoFreeArena)?;
        let started = Instant::now();
        loop {
            self.take_commands();
            if self.closed {
                return Ok(None);
            }
            let step = &mut self.steps[arena];
            self.scheduler.schedule(&mut self.requests, step, now());
            if !step.entries.is_empty() {
                let mut view = self.layout.view(arenas.arena(arena))?;
                self.epoch += 1;
                step.fill(self.epoch, arena, &mut self.requests, self.config.block_size, &mut view);
                if let (Some(work), Some(device)) = (&mut self.work, &mut view.device) {
                    step.fill_device(&mut self.requests, work, device);
                }
                self.in_flight.push_back(arena);
                return Ok(Some(step.plan));
            }
            let rest = timeout.saturating_sub(started.elapsed());
            let idle = now() - self.outbox.last;
            if self.in_flight.is_empty() && idle >= IDLE_INTERVAL {
                let stats = self.stats();
                self.outbox.send(&Report::Idle(Box::new(stats)));
            } else if rest.is_zero() {
                return Ok(None);
            } else {
                self.inbox.wait(rest.min(Duration::from_secs_f64((IDLE_INTERVAL - idle).max(0.001))));
            }
        }
    }

    /// What the sampler needs: one item for each sample of a step in flight, in order.
    pub fn sampling(&self, epoch: u64) -> Result<impl Iterator<Item = SampleRow<'_>>, EngineError> {
        Ok(self.find_step(epoch)?.sampling(&self.requests))
    }

    /// The prompts of a step in flight that have to be pooled, in order.
    pub fn pooling(&self, epoch: u64) -> Result<impl Iterator<Item = PoolRow>, EngineError> {
        Ok(self.find_step(epoch)?.pooling(&self.requests))
    }

    /// What became of the prompt of request `index` of a step in flight; `data` has as many elements as `shape` says.
    /// Those of a step come by rising index.
    pub fn set_pooled(&mut self, epoch: u64, index: usize, shape: Vec<u32>, data: Vec<f32>) -> Result<(), EngineError> {
        self.find_step(epoch)?;
        let arena = self.in_flight.iter().copied().find(|&arena| self.steps[arena].plan.epoch == epoch);
        let step = &mut self.steps[arena.expect("the step was found")];
        step.pooled.push(Pooled { index, shape, data });
        Ok(())
    }

    /// Takes the lists of log-probabilities of a step in flight that have more elements than the columns have room for
    /// (`ArenaLayout::max_logprobs`): one a sample, empty where the columns have it all.
    pub fn give_lists(&mut self, epoch: u64, lists: Vec<LogprobList>) -> Result<(), EngineError> {
        let step = self.steps.iter_mut().find(|step| step.plan.epoch == epoch);
        step.ok_or(EngineError::StaleEpoch { epoch })?.lists = lists;
        Ok(())
    }

    /// The plan of a step in flight.
    pub fn step(&self, epoch: u64) -> Result<Plan, EngineError> {
        Ok(self.find_step(epoch)?.plan)
    }

    /// Takes the output columns of the oldest step in flight: appends, ends, hashes, frees, and sends one frame.
    pub fn commit(&mut self, epoch: u64, arenas: &mut dyn Arenas) -> Result<(), EngineError> {
        let arena = self.oldest(epoch)?;
        let view = self.layout.view(arenas.arena(arena))?;
        self.in_flight.pop_front();
        let step = &mut self.steps[arena];
        let width = self.layout.max_logprobs;
        commit::commit(step, &view, &self.config, width, &mut self.requests, &mut self.scheduler, &mut self.outbox);
        self.scheduler.counters.num_steps += 1;
        self.scheduler.counters.step_tokens = step.plan.num_tokens;
        let stats = self.stats();
        self.outbox.flush(stats);
        self.settle();
        Ok(())
    }

    /// The oldest step in flight could not run: its requests fail with `message`, the others go on.
    pub fn fail(&mut self, epoch: u64, message: &str) -> Result<(), EngineError> {
        let arena = self.oldest(epoch)?;
        self.in_flight.pop_front();
        let entries = std::mem::take(&mut self.steps[arena].entries);
        for entry in &entries {
            self.requests.sequences[entry.key].in_flight -= 1;
        }
        for entry in &entries {
            // An earlier choice of the same request may have ended this one.
            let Some(sequence) = self.requests.sequences.get(entry.key) else { continue };
            let (request, ending) = (sequence.request, sequence.ending);
            match ending {
                Ending::None => {
                    let refusal = (FailReason::Internal, None, message.to_owned());
                    commit::end(&mut self.requests, &mut self.scheduler, &mut self.outbox, request, refusal);
                }
                Ending::Abort => {
                    commit::abort(&mut self.requests, &mut self.scheduler, &mut self.outbox, entry.key);
                }
                Ending::Silent => commit::close(&mut self.requests, &mut self.scheduler, entry.key),
            }
        }
        if !self.outbox.is_empty() {
            let stats = self.stats();
            self.outbox.flush(stats);
        }
        self.settle();
        Ok(())
    }

    /// The front end has gone, or draining is done.
    pub fn closed(&self) -> bool {
        self.closed
    }

    pub fn stats(&self) -> Stats {
        let num_waiting = (self.scheduler.waiting.len() + self.compiling.len()) as u32;
        Stats { num_waiting, ..self.scheduler.stats() }
    }

    /// `EngineError::Integrity` when a block is lost or counted twice, or a table disagrees with its request.
    pub fn check_integrity(&self) -> Result<(), EngineError> {
        self.scheduler.check(&self.requests).map_err(EngineError::Integrity)?;
        let in_flight: usize = self.in_flight.iter().map(|&arena| self.steps[arena].entries.len()).sum();
        let marked: u32 = self.requests.sequences.iter().map(|(_, sequence)| sequence.in_flight).sum();
        if in_flight != marked as usize {
            return Err(EngineError::Integrity(format!("{in_flight} entries are in flight, {marked} are marked")));
        }
        Ok(())
    }

    fn find_step(&self, epoch: u64) -> Result<&Step, EngineError> {
        let mut steps = self.in_flight.iter().map(|&arena| &self.steps[arena]);
        steps.find(|step| step.plan.epoch == epoch).ok_or(EngineError::StaleEpoch { epoch })
    }

    fn oldest(&self, epoch: u64) -> Result<usize, EngineError> {
        let oldest = self.in_flight.front().filter(|&&arena| self.steps[arena].plan.epoch == epoch);
        oldest.copied().ok_or(EngineError::StaleEpoch { epoch })
    }

    fn take_commands(&mut self) {
        let mut commands = std::mem::take(&mut self.commands);
        let connected = self.inbox.take(&mut commands);
        for command in commands.drain(..) {
            match command {
                Command::Submit(submission) => {
                    let id = submission.request;
                    if let Err(refusal) = self.submit(*submission) {
                        self.refuse(id, refusal);
                    }
                }
                Command::Abort { request } => self.abort(request),
                Command::Stop { request, choice } => self.stop(request, choice),
                Command::ResetPrefixCache => self.scheduler.pool.forget_free(),
                Command::Drain => self.draining = true,
            }
        }
        self.commands = commands;
        self.take_compiled();
        if !self.outbox.is_empty() {
            let stats = self.stats();
            self.outbox.flush(stats);
        }
        self.closed |= !connected;
        self.settle();
    }

    fn settle(&mut self) {
        self.closed |= self.outbox.closed || self.draining && self.is_idle();
    }

    fn is_idle(&self) -> bool {
        self.requests.is_empty() && self.compiling.is_empty() && self.in_flight.is_empty()
    }

    fn refuse(&mut self, id: RequestId, (reason, param, message): Refusal) {
        self.scheduler.counters.num_rejected += 1;
        self.outbox.fail(id, reason, param, message);
    }

    fn submit(&mut self, submission: Submission) -> Result<(), Refusal> {
        if self.draining {
            return Err((FailReason::Draining, None, "the engine is shutting down".into()));
        }
        let limit = self.check(&submission).map_err(|message| (FailReason::Invalid, None, message))?;
        if let Some(max) = self.config.max_num_queued_reqs {
            // Those for whom a row is free are not really waiting.
            let num_waiting = self.scheduler.waiting.len() + self.compiling.len();
            if num_waiting >= max as usize + self.scheduler.num_free_rows() {
                let message = format!("{max} requests are waiting, which is the limit");
                return Err((FailReason::QueueFull, None, message));
            }
        }
        self.num_submitted += 1;
        let number = self.num_submitted;
        let Some(structure) = &submission.sampling.structure else {
            self.enqueue(submission, number, limit, None);
            return Ok(());
        };
        let Some(grammars) = &mut self.grammars else {
            let message = "this engine has no tokenizer, and cannot enforce a structure".into();
            return Err((FailReason::Invalid, Some(STRUCTURE), message));
        };
        let Some(compilation) = grammars.compile(structure) else {
            return Err((FailReason::QueueFull, None, "too many grammars wait to be compiled".into()));
        };
        self.compiling.push(Compiling { submission, number, limit, compilation });
        Ok(())
    }

    /// Queues the requests whose structures are compiled, and refuses those whose structures cannot be.
    fn take_compiled(&mut self) {
        let Some(grammars) = self.grammars.as_mut().filter(|_| !self.compiling.is_empty()) else { return };
        let (mut done, mut refused) = (Vec::new(), Vec::new());
        for request in mem::take(&mut self.compiling) {
            grammars.check_time(&request.compilation);
            match request.compilation.outcome() {
                None => self.compiling.push(request),
                Some(Ok(start)) => {
                    let grammar = Grammar { start: start.clone(), workers: grammars.workers().clone() };
                    done.push((request, grammar));
                }
                Some(Err(message)) => {
                    grammars.forget(request.submission.sampling.structure.as_ref().expect("it was compiled"));
                    refused.push((request.submission.request, message.clone()));
                }
            }
        }
        for (id, message) in refused {
            self.refuse(id, (FailReason::Invalid, Some(STRUCTURE), message));
        }
        for (Compiling { submission, number, limit, .. }, grammar) in done {
            self.enqueue(submission, number, limit, Some(grammar));
        }
    }

    fn enqueue(&mut self, submission: Submission, number: u64, limit: u32, structure: Option<Grammar>) {
        let Submission { request: id, prompt, sampling, pooling, priority, arrival, cache_salt } = submission;
        let priority = if self.config.policy == Policy::Priority { priority } else { 0 };
        let turn = Turn { priority, number, choice: 0 };
        let mut banned = Vec::new();
        if sampling.min_tokens > 0 {
            banned.extend(sampling.stop_token_ids.iter().chain(&self.config.eos_token_ids));
        }
        let rules = Rules::new(&sampling, structure, self.config.vocab_size, &self.config.eos_token_ids, &banned);
        let stage = rules.begin();
        let beams = sampling.beams.map(|beams| Box::new(BeamSearch::new(beams)));
        let num_choices = beams.as_ref().map_or(sampling.n, |search| search.width());
        let (num_prompt, scores_prompt) = (prompt.len() as u32, sampling.prompt_logprobs.is_some());
        let limits = self.config.pooling.as_ref();
        let is_whole = pooling.zip(limits).is_some_and(|(pooling, limits)| limits.is_whole(pooling.task));
        let salted = !cache_salt.is_empty();
        let request = Request {
            id,
            banned,
            rules,
            seed: sampling.seed.unwrap_or_else(|| mix(self.config.seed, turn.number)),
            sampling,
            pooling,
            root: if salted { self.scheduler.hasher.root(&cache_salt) } else { self.root },
            salt: salted.then(|| cache_salt.into()),
            num_cached: 0,
            arrival,
            scheduled: 0.0,
            choices: vec![None; num_choices as usize],
            num_live: 0,
            beams,
        };
        let key = self.requests.insert(request, |request| Sequence {
            request,
            turn,
            num_prompt,
            tokens: prompt,
            num_computed: 0,
            num_planned: 0,
            is_whole,
            limit,
            table: BlockTable::default(),
            num_synced: 0,
            row: None,
            num_counted: 0,
            fork_rows: Vec::new(),
            num_choices,
            num_scored: if scores_prompt { 0 } else { num_prompt },
            hashes: Vec::new(),
            num_registered: 0,
            content: Some(Content::ROOT),
            in_flight: 0,
            pending: None,
            ending: Ending::None,
            stage,
            is_expanded: false,
            first_token: 0.0,
            num_preemptions: 0,
        });
        self.scheduler.waiting.push(turn, key);
    }

    /// The length at which the request's sequences end, or why it can never run.
    fn check(&self, submission: &Submission) -> Result<u32, String> {
        let (config, sampling) = (&self.config, &submission.sampling);
        let num_prompt = submission.prompt.len();
        let is_compiling = |request: &Compiling| request.submission.request == submission.request;
        if self.requests.contains(submission.request) || self.compiling.iter().any(is_compiling) {
            return Err(format!("request {} exists already", submission.request));
        }
        if num_prompt == 0 {
            return Err("the prompt is empty".into());
        }
        let largest = submission.prompt.iter().max().expect("it is not empty");
        if *largest >= config.vocab_size {
            return Err(format!("token {largest} is not in the vocabulary of {}", config.vocab_size));
        }
        let (limit, num_computed) = match &submission.pooling {
            Some(pooling) => {
                pooling::check(config, pooling, num_prompt)?;
                (num_prompt as u32, num_prompt as u32)
            }
            None => {
                self.check_sampling(sampling, num_prompt)?;
                let limit = (num_prompt as u32).saturating_add(sampling.max_tokens).min(config.max_model_len);
                // The last token is never computed.
                (limit, limit - 1)
            }
        };
        if num_computed.div_ceil(config.block_size) > config.num_blocks {
            return Err(format!(
                "a request of {limit} tokens does not fit the KV cache of {}",
                u64::from(config.num_blocks) * u64::from(config.block_size)
            ));
        }
        Ok(limit)
    }

    /// Why a prompt cannot be answered, if so.
    fn check_sampling(&self, sampling: &Sampling, num_prompt: usize) -> Result<(), String> {
        let config = &self.config;
        if config.pooling.is_some() {
            return Err("this model pools prompts, and generates no text".into());
        }
        if num_prompt >= config.max_model_len as usize {
            return Err(format!(
                "the prompt has {num_prompt} tokens; with the {} tokens of the context there is no room to answer",
                config.max_model_len
            ));
        }
        if sampling.n == 0 || sampling.n > config.max_num_seqs {
            return Err(format!("n is {}, and must be between 1 and {}", sampling.n, config.max_num_seqs));
        }
        if sampling.max_tokens == 0 {
            return Err("max_tokens is 0".into());
        }
        let mut most_logprobs = config.max_logprobs;
        if let Some(beams) = sampling.beams {
            let most = config.max_beam_width();
            if beams.width < sampling.n || beams.width > most {
                let (n, width) = (sampling.n, beams.width);
                return Err(format!("best_of: a search of {width} beams for n={n}; it can have n to {most} beams"));
            }
            most_logprobs = config.logprobs_width();
        }
        if sampling.logprobs.is_some_and(|count| count > most_logprobs)
            || sampling.prompt_logprobs.is_some_and(|count| count > config.max_logprobs)
        {
            return Err(format!("more log-probabilities are asked for than the {most_logprobs} allowed"));
        }
        if let Some(end) = sampling.reasoning_end.iter().find(|&&token| token >= config.vocab_size) {
            return Err(format!(
                "token {end} of the reasoning's end is not in the vocabulary of {}",
                config.vocab_size
            ));
        }
        if sampling.thinking_token_budget.is_some() && sampling.reasoning_end.is_empty() {
            return Err("a budget of reasoning needs the tokens that end it".into());
        }
        Ok(())
    }

    fn abort(&mut self, id: RequestId) {
        if let Some(index) = self.compiling.iter().position(|request| request.submission.request == id) {
            let Submission { sampling, arrival, .. } = self.compiling.swap_remove(index).submission;
            return self.outbox.abort(id, sampling.n, arrival);
        }
        let Some(index) = self.requests.index_of(id) else { return };
        let request = &self.requests.requests[index];
        if request.beams.is_some() {
            return beam::abort(index, now(), &mut self.requests, &mut self.scheduler, &mut self.outbox);
        }
        for key in request.choices.clone().into_iter().flatten() {
            let sequence = &mut self.requests.sequences[key];
            if sequence.in_flight == 0 {
                commit::abort(&mut self.requests, &mut self.scheduler, &mut self.outbox, key);
            } else if sequence.ending == Ending::None {
                sequence.ending = Ending::Abort;
            }
        }
    }

    fn stop(&mut self, id: RequestId, choice: u32) {
        let Some(request) = self.requests.find(id).filter(|request| request.beams.is_none()) else { return };
        let Some(&Some(key)) = request.choices.get(choice as usize) else { return };
        if self.requests.sequences[key].num_choices > 1 {
            // Nothing was sampled yet, so no text can have met a stop string.
            return;
        }
        commit::close(&mut self.requests, &mut self.scheduler, key);
    }
}

/// SplitMix64's finalizer: seeds which differ in one bit give unrelated draws.
fn mix(seed: u64, number: u64) -> u64 {
    let mut value = seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
