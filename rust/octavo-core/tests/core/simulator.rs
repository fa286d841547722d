//! A model whose keys and values are hashes of what they stand for, and clients who know what they must receive.
//!
//! A slot of the simulated cache holds the hash of all tokens up to its own. After each step every position that a
//! request can see is compared with the hash of its true tokens: a wrong table, a missed copy, a block shared wrongly
//! or used again too early all show. A sampled token is a function of the whole history and the choice, so that the
//! clients can compute every answer by themselves.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use octavo_core::{
    ArenaLayout, Arenas, BlockHasher, Engine, EngineConfig, HeapArenas, Inbox, LogprobList, Plan, Policy, ReportSink,
    SampleRow,
};
use octavo_wire::{BeamStop, Command, FailReason, FinishReason, Report, RequestId, Sampling, Submission};

use crate::beam::best_beams;
use crate::history::{History, TokenList, has_penalties};

pub const EOS: u32 = 0;
const RUBBISH: u64 = 0xbad;
pub const VOCAB_SIZE: u32 = 64;

pub fn config() -> EngineConfig {
    EngineConfig {
        num_blocks: 64,
        block_size: 4,
        max_num_seqs: 4,
        max_num_batched_tokens: 32,
        max_model_len: 128,
        vocab_size: VOCAB_SIZE,
        eos_token_ids: vec![EOS],
        enable_prefix_caching: true,
        enable_chunked_prefill: true,
        policy: Policy::Fcfs,
        max_num_queued_reqs: None,
        long_prefill_token_threshold: 0,
        max_logprobs: 3,
        seed: 7,
        async_decode: false,
        device_work: None,
        pooling: None,
    }
}

/// A greedy request which ends after `max_tokens` and not before.
pub fn submission(request: RequestId, prompt: impl IntoIterator<Item = u32>, max_tokens: u32) -> Submission {
    let sampling = Sampling {
        n: 1,
        temperature: 0.0,
        top_p: 1.0,
        top_k: 0,
        min_p: 0.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        repetition_penalty: 1.0,
        seed: None,
        max_tokens,
        min_tokens: 0,
        ignore_eos: true,
        stop_token_ids: Vec::new(),
        allowed_token_ids: Vec::new(),
        bad_words: Vec::new(),
        logit_bias: Vec::new(),
        logprobs: None,
        structure: None,
        reasoning_end: Vec::new(),
        thinking_token_budget: None,
        beams: None,
        is_processed: false,
        logprob_token_ids: Vec::new(),
        prompt_logprobs: None,
    };
    let prompt = prompt.into_iter().collect();
    Submission { request, prompt, sampling, pooling: None, priority: 0, arrival: 1.0, cache_salt: String::new() }
}

/// The hash of a history one token longer.
pub fn extend(history: u64, token: u32) -> u64 {
    let value = (history ^ u64::from(token)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

pub fn history(tokens: &[u32]) -> u64 {
    tokens.iter().fold(1, |history, &token| extend(history, token))
}

/// What the model answers to a history.
fn answer(history: u64, choice: u32) -> u32 {
    (extend(history, choice + 1000) % u64::from(VOCAB_SIZE)) as u32
}

/// What the model pools a history to, beside its length.
fn pooled(history: u64) -> f32 {
    (history % 1000) as f32
}

/// Whether a sample may become this token.
fn allows(row: &SampleRow<'_>, token: u32) -> bool {
    let mask = row.mask.wait();
    let is_masked = !mask.is_empty() && mask.get(token as usize / 32).is_none_or(|word| word >> (token % 32) & 1 == 0);
    !is_masked && !row.banned.contains(&token)
}

/// The tokens that are most probable after a history, best first, and their log-probabilities: sums of 1024ths.
pub fn candidates(history: u64) -> impl Iterator<Item = (u32, f32)> {
    let first = extend(history, 5000) as u32;
    let mut logprob = 0.0;
    (0..VOCAB_SIZE).map(move |index| {
        logprob -= (1 + extend(history, 6000 + index) % 800) as f32 / 1024.0;
        (first.wrapping_add(index) % VOCAB_SIZE, logprob)
    })
}

/// The first elements of a column of integers.
pub fn integers(layout: &ArenaLayout, arena: &[u8], name: &str, len: u32) -> Vec<i64> {
    let column = layout.column(name).expect("the layout names its columns");
    assert_eq!(column.offset % 64, 0);
    assert!(len as usize <= column.len, "{name} takes {len} of {}", column.len);
    let bytes = &arena[column.offset..][..len as usize * column.element.bytes()];
    match column.element.bytes() {
        8 => bytemuck::cast_slice::<u8, i64>(bytes).to_vec(),
        _ => bytemuck::cast_slice::<u8, i32>(bytes).iter().map(|&value| i64::from(value)).collect(),
    }
}

/// A step's columns, copied out of the arena.
#[derive(Clone, Debug)]
pub struct Columns {
    pub input_ids: Vec<i64>,
    pub positions: Vec<i64>,
    pub slot_mapping: Vec<i64>,
    pub row: Vec<i64>,
    pub query_start: Vec<i64>,
    pub seq_len: Vec<i64>,
    pub logits_index: Vec<i64>,
    pub sample_row: Vec<i64>,
    pub deltas: Vec<[i64; 3]>,
    pub copies: Vec<(i64, i64)>,
    /// Not 0 where the host samples; empty when the engine has no such column.
    pub host_sample: Vec<i64>,
    pub token_lists: Vec<TokenList>,
}

impl Columns {
    fn read(layout: &ArenaLayout, plan: &Plan, arena: &[u8]) -> Columns {
        let column = |name: &str, len: u32| integers(layout, arena, name, len);
        let deltas = ["delta_row", "delta_column", "delta_block"].map(|name| column(name, plan.num_table_deltas));
        let copies = ["copy_source", "copy_target"].map(|name| column(name, plan.num_block_copies));
        Columns {
            input_ids: column("input_ids", plan.num_tokens),
            positions: column("positions", plan.num_tokens),
            slot_mapping: column("slot_mapping", plan.num_tokens),
            row: column("row", plan.num_reqs),
            query_start: column("query_start", plan.num_reqs + 1),
            seq_len: column("seq_len", plan.num_reqs),
            logits_index: column("logits_index", plan.num_samples),
            sample_row: column("sample_row", plan.num_samples),
            deltas: (0..deltas[0].len()).map(|i| [deltas[0][i], deltas[1][i], deltas[2][i]]).collect(),
            copies: copies[0].iter().copied().zip(copies[1].iter().copied()).collect(),
            host_sample: layout.column("host_sample").map_or(vec![], |_| column("host_sample", plan.num_samples)),
            token_lists: TokenList::read(layout, plan, arena),
        }
    }
}

/// The cache and the block tables of a device.
struct Device {
    block_size: usize,
    slots: Vec<u64>,
    tables: Vec<Vec<i64>>,
    /// By row; `None` where it is rubbish, or where the host samples.
    last_sampled: Vec<Option<u32>>,
    /// By row.
    histories: Vec<History>,
}

impl Device {
    fn new(config: &EngineConfig) -> Self {
        Device {
            block_size: config.block_size as usize,
            slots: vec![0; (config.num_blocks * config.block_size) as usize],
            tables: vec![vec![-1; config.max_blocks_per_seq() as usize]; config.max_num_seqs as usize],
            last_sampled: vec![None; config.max_num_seqs as usize],
            histories: vec![History::default(); config.max_num_seqs as usize],
        }
    }

    fn slot(&self, row: i64, position: usize) -> usize {
        let block = self.tables[row as usize][position / self.block_size];
        assert!(block >= 0, "row {row} has no block for position {position}");
        block as usize * self.block_size + position % self.block_size
    }

    /// The token that an element of `input_ids` stands for.
    fn token(&self, input: i64) -> Option<u32> {
        if input < 0 { self.last_sampled[(-1 - input) as usize] } else { Some(input as u32) }
    }

    /// Runs a step and returns the history at each token. `broken`: what it writes is rubbish.
    fn run(&mut self, columns: &Columns, broken: bool) -> Vec<u64> {
        // Deltas may be applied at the same time.
        let places: HashSet<[i64; 2]> = columns.deltas.iter().map(|&[row, column, _]| [row, column]).collect();
        assert_eq!(places.len(), columns.deltas.len(), "two deltas for one place of a table");
        for &[row, column, block] in &columns.deltas {
            self.tables[row as usize][column as usize] = block;
        }
        // Copies may run at the same time.
        let targets: HashSet<i64> = columns.copies.iter().map(|copy| copy.1).collect();
        assert_eq!(targets.len(), columns.copies.len(), "two copies into one block");
        for &(source, target) in &columns.copies {
            assert!(!targets.contains(&source), "a block is copied from and to in one step");
            let source = source as usize * self.block_size;
            self.slots.copy_within(source..source + self.block_size, target as usize * self.block_size);
        }
        let distinct: HashSet<i64> = columns.slot_mapping.iter().copied().collect();
        assert_eq!(distinct.len(), columns.slot_mapping.len(), "two tokens write one slot");
        for list in &columns.token_lists {
            self.histories[list.row].write(list);
        }
        let mut histories = Vec::new();
        for (index, &row) in columns.row.iter().enumerate() {
            let tokens = columns.query_start[index] as usize..columns.query_start[index + 1] as usize;
            assert!(!tokens.is_empty());
            let start = columns.positions[tokens.start] as usize;
            assert_eq!(start + tokens.len(), columns.seq_len[index] as usize);
            let mut history = if start == 0 { 1 } else { self.slots[self.slot(row, start - 1)] };
            for (offset, token) in tokens.enumerate() {
                assert_eq!(columns.positions[token] as usize, start + offset);
                assert_eq!(columns.slot_mapping[token] as usize, self.slot(row, start + offset));
                let input = columns.input_ids[token];
                assert!(input >= 0 || (-1 - input, columns.query_start[index + 1]) == (row, token as i64 + 1));
                history = self.token(input).filter(|_| !broken).map_or(RUBBISH, |token| extend(history, token));
                self.slots[columns.slot_mapping[token] as usize] = history;
                histories.push(history);
            }
        }
        if broken {
            columns.sample_row.iter().for_each(|&row| self.last_sampled[row as usize] = None);
        }
        histories
    }
}

/// The rank of a prompt's next token after a history.
fn rank(history: u64) -> u32 {
    (history % 1000) as u32 + 2
}

/// What one choice of a request has received.
#[derive(Debug, Default, Clone)]
pub struct Answer {
    pub tokens: Vec<u32>,
    pub finish: Option<FinishReason>,
    /// The client said that a stop string was met.
    pub stopped: bool,
    pub num_cached: u32,
}

#[derive(Debug)]
pub struct Client {
    submission: Submission,
    pub answers: Vec<Answer>,
    pub failed: Option<FailReason>,
    /// Prompt tokens whose log-probabilities have come.
    pub num_scored: usize,
    /// Of a prompt that was pooled: its cached tokens.
    pub pooled: Option<u32>,
    aborted: bool,
}

impl Client {
    pub fn is_done(&self) -> bool {
        self.failed.is_some() || self.answers.iter().all(|answer| answer.finish.is_some() || answer.stopped)
    }
}

#[derive(Clone, Default)]
pub struct Reports(Arc<Mutex<Vec<Report>>>);

impl ReportSink for Reports {
    fn send(&mut self, report: &Report) -> bool {
        self.0.lock().expect("no test panics with the lock").push(report.clone());
        true
    }
}

impl Reports {
    pub fn take(&self) -> Vec<Report> {
        std::mem::take(&mut self.0.lock().expect("no test panics with the lock"))
    }
}

/// A step in flight.
pub struct Flight {
    pub plan: Plan,
    columns: Columns,
    /// It is to fail.
    broken: bool,
    /// The device has done it.
    done: bool,
}

pub struct Simulator {
    pub engine: Engine,
    pub inbox: Inbox,
    pub clients: BTreeMap<RequestId, Client>,
    pub reports: Reports,
    pub in_flight: VecDeque<Flight>,
    pub arenas: HeapArenas,
    device: Device,
}

impl Simulator {
    pub fn new(config: EngineConfig) -> Self {
        Self::with_hash_bits(config, 128)
    }

    pub fn with_hash_bits(config: EngineConfig, bits: u32) -> Self {
        let (inbox, reports) = (Inbox::default(), Reports::default());
        let hasher = BlockHasher::with_key(&[9; 16]).narrowed(bits);
        let device = Device::new(&config);
        let engine = Engine::with_hasher(config, inbox.clone(), Box::new(reports.clone()), hasher)
            .expect("the test's limits agree");
        let arenas = HeapArenas::new(engine.arena_layout());
        let (clients, in_flight) = (BTreeMap::new(), VecDeque::new());
        Simulator { engine, inbox, clients, reports, in_flight, arenas, device }
    }

    pub fn submit(&mut self, submission: Submission) {
        let answers = vec![Answer::default(); submission.sampling.n as usize];
        let client = Client {
            submission: submission.clone(),
            answers,
            failed: None,
            num_scored: 0,
            pooled: None,
            aborted: false,
        };
        self.clients.insert(submission.request, client);
        self.inbox.push(Command::Submit(Box::new(submission)));
    }

    pub fn abort(&mut self, request: RequestId) {
        self.inbox.push(Command::Abort { request });
        if let Some(client) = self.clients.get_mut(&request) {
            client.aborted = true;
        }
    }

    /// As after a stop string: only a choice that has text can be stopped.
    pub fn stop(&mut self, request: RequestId, choice: u32) {
        let Some(client) = self.clients.get_mut(&request) else { return };
        let answer = &mut client.answers[choice as usize];
        if !answer.tokens.is_empty() && answer.finish.is_none() {
            answer.stopped = true;
            self.inbox.push(Command::Stop { request, choice });
        }
    }

    pub fn client(&self, request: RequestId) -> &Client {
        &self.clients[&request]
    }

    /// Plans a step and runs it at once; it is in flight until `commit`. A broken step is to fail there.
    pub fn plan(&mut self, broken: bool) -> Option<(Plan, Columns)> {
        let planned = self.plan_late(broken);
        while self.run() {}
        planned
    }

    /// Plans a step that the device runs later: at `run`, after the next `plan`, or at its `commit`.
    pub fn plan_late(&mut self, broken: bool) -> Option<(Plan, Columns)> {
        let plan = self.engine.plan(Duration::ZERO, &mut self.arenas).expect("an arena is free");
        self.receive();
        let plan = plan?;
        let config = self.engine.config();
        assert!(plan.num_tokens <= config.max_num_batched_tokens);
        assert!(plan.num_reqs <= config.max_num_seqs && plan.num_samples <= config.max_num_seqs);
        let columns = Columns::read(self.engine.arena_layout(), &plan, self.arenas.arena(plan.arena));
        assert_eq!(columns.query_start.last(), Some(&i64::from(plan.num_tokens)));
        assert_eq!(columns.seq_len.iter().max(), Some(&i64::from(plan.max_context_len)));
        let lengths = columns.query_start.windows(2).map(|pair| pair[1] - pair[0]);
        assert_eq!(lengths.max(), Some(i64::from(plan.max_query_len)));
        let rows: HashSet<i64> = columns.row.iter().copied().collect();
        assert_eq!(rows.len(), columns.row.len(), "a row runs twice in a step");
        let samples = self.engine.sampling(plan.epoch).expect("the step is in flight");
        let drawn = samples.zip(&columns.sample_row).filter(|(sample, _)| sample.given.is_none());
        let rows: Vec<i64> = drawn.map(|(_, &row)| row).collect();
        assert_eq!(rows.len(), rows.iter().collect::<HashSet<_>>().len(), "a row samples twice in a step");

        self.check_device_columns(&plan, &columns);
        self.in_flight.push_back(Flight { plan, columns: columns.clone(), broken, done: false });
        Some((plan, columns))
    }

    /// The device runs the next step; false when none waits.
    pub fn run(&mut self) -> bool {
        let Some(flight) = self.in_flight.iter_mut().find(|flight| !flight.done) else { return false };
        flight.done = true;
        let (plan, columns, broken) = (flight.plan, flight.columns.clone(), flight.broken);
        let histories = self.device.run(&columns, broken);
        if !broken {
            self.sample(&plan, &columns, &histories);
        }
        true
    }

    /// Checks what each sample sees, and writes its token.
    fn sample(&mut self, plan: &Plan, columns: &Columns, histories: &[u64]) {
        let (mut sampled, mut ranks) = (Vec::new(), Vec::new());
        let width = self.engine.arena_layout().max_logprobs;
        let (mut top_ids, mut top_logprobs, mut lists) = (Vec::new(), Vec::new(), Vec::<LogprobList>::new());
        let mut rows = self.engine.sampling(plan.epoch).expect("the step is in flight");
        for (sample, (&token, &sample_row)) in columns.logits_index.iter().zip(&columns.sample_row).enumerate() {
            let row = rows.next().expect("each sample has a row");
            if let Some(given) = row.given {
                let position = columns.positions[token as usize] as usize;
                assert_eq!(row.prompt[position + 1], given);
                assert!(row.num_logprobs.is_some() && row.named.is_empty());
                sampled.push(given);
                ranks.push(rank(histories[token as usize]) as i32);
                for (token, logprob) in candidates(histories[token as usize]).take(width) {
                    top_ids.push(token as i32);
                    top_logprobs.push(logprob.to_bits() as i32);
                }
                lists.push(candidates(histories[token as usize]).collect());
                continue;
            }
            ranks.push(1);
            let mut tokens: Vec<u32> = row.prompt.iter().chain(row.output).copied().collect();
            let index = columns.query_start.partition_point(|&start| start <= token) - 1;
            let input = columns.input_ids[token as usize];
            let Some(last) = self.device.token(input) else {
                // The step before it broke.
                sampled.push(EOS);
                lists.push(Vec::new());
                top_ids.extend(vec![-1; width]);
                top_logprobs.extend(vec![0; width]);
                self.device.last_sampled[sample_row as usize] = None;
                continue;
            };
            if tokens.len() + 1 == columns.seq_len[index] as usize {
                assert!(input < 0, "a token is missing that is known");
                tokens.push(last);
            }
            assert_eq!(columns.seq_len[index] as usize, tokens.len());
            assert_eq!(tokens.last(), Some(&last));
            let mut history = 1;
            for (position, &token) in tokens.iter().enumerate() {
                history = extend(history, token);
                let slot = self.device.slot(columns.row[index], position);
                assert_eq!(self.device.slots[slot], history, "position {position} is another's");
            }
            assert_eq!(histories[token as usize], history);
            assert_eq!(row.step as usize, tokens.len() - row.prompt.len());
            let choice = answer(history, row.choice);
            let allowed = (0..VOCAB_SIZE).map(|offset| (choice + offset) % VOCAB_SIZE);
            // As the sampler has it: -1 where no token is allowed, since a grammar has failed.
            let choice = allowed.into_iter().find(|&token| allows(&row, token)).unwrap_or(u32::MAX);
            sampled.push(choice);

            let all: Vec<_> = candidates(history).collect();
            lists.push(all.into_iter().cycle().take(row.num_logprobs.unwrap_or(0) as usize).collect());
            for (token, logprob) in candidates(history).take(width) {
                top_ids.push(token as i32);
                top_logprobs.push(logprob.to_bits() as i32);
            }
            let on_device = columns.host_sample.get(sample).map_or(!has_penalties(&row), |&on_host| on_host == 0);
            self.device.last_sampled[sample_row as usize] = on_device.then_some(choice);
            if on_device && has_penalties(&row) {
                let known = &mut self.device.histories[sample_row as usize];
                assert_eq!(*known, History::of(&tokens, row.prompt.len()), "the penalties are of other tokens");
                known.count(choice);
            }
        }
        assert!(rows.next().is_none());
        drop(rows);
        self.engine.give_lists(plan.epoch, lists).expect("the step is in flight");
        let rows: Vec<_> = self.engine.pooling(plan.epoch).expect("the step is in flight").collect();
        for row in rows {
            let last = columns.query_start[row.index + 1] as usize - 1;
            let data = vec![columns.seq_len[row.index] as f32, pooled(histories[last])];
            self.engine.set_pooled(plan.epoch, row.index, vec![2], data).expect("the step is in flight");
        }
        let sampled: Vec<i32> = sampled.into_iter().map(|token| token as i32).collect();
        self.write("sampled", plan, &sampled);
        self.write("sampled_rank", plan, &ranks);
        self.write("top_ids", plan, &top_ids);
        self.write("top_logprobs", plan, &top_logprobs);
    }

    /// The first elements of an output column, as their bits.
    pub fn write(&mut self, name: &str, plan: &Plan, values: &[i32]) {
        let column = *self.engine.arena_layout().column(name).expect("the layout names its columns");
        let bytes = &mut self.arenas.arena(plan.arena)[column.offset..][..column.len * 4];
        bytemuck::cast_slice_mut::<u8, i32>(bytes)[..values.len()].copy_from_slice(values);
    }

    /// Commits the oldest step in flight, or lets it fail when it was broken.
    pub fn commit(&mut self) {
        if self.in_flight.front().is_some_and(|flight| !flight.done) {
            self.run();
        }
        let Some(Flight { plan, broken, .. }) = self.in_flight.pop_front() else { return };
        if broken {
            self.engine.fail(plan.epoch, "broken").expect("the step is the oldest");
        } else {
            self.engine.commit(plan.epoch, &mut self.arenas).expect("the step is the oldest");
        }
        self.receive();
    }

    /// `commit` of an epoch of the caller's choice.
    pub fn commit_epoch(&mut self, epoch: u64) -> Result<(), octavo_core::EngineError> {
        self.engine.commit(epoch, &mut self.arenas)
    }

    /// As the engine's loop does it, until nothing runs; the number of steps.
    pub fn finish(&mut self) -> usize {
        let most = if self.engine.config().async_decode { 2 } else { 1 };
        let mut steps = 0;
        loop {
            while self.in_flight.len() < most && self.plan(false).is_some() {
                steps += 1;
                assert!(steps < 100_000, "the engine goes on for ever");
            }
            if self.in_flight.is_empty() {
                return steps;
            }
            self.commit();
        }
    }

    pub fn check(&self) {
        self.engine.check_integrity().expect("the engine is whole");
    }

    /// Gives the reports to the clients, who know what they must get.
    fn receive(&mut self) {
        for report in self.reports.take() {
            match report {
                Report::Step(step) => {
                    for output in step.outputs {
                        let client = self.clients.get_mut(&output.request).expect("somebody asked for it");
                        client.receive(&output, self.engine.config());
                    }
                }
                Report::Failed { request, reason, .. } => {
                    let client = self.clients.get_mut(&request).expect("somebody asked for it");
                    assert!(!client.is_done() || client.answers.iter().any(|answer| answer.stopped));
                    client.failed = Some(reason);
                }
                Report::Pooled(output) => {
                    let client = self.clients.get_mut(&output.request).expect("somebody asked for it");
                    let prompt = &client.submission.prompt;
                    assert_eq!(output.data, [prompt.len() as f32, pooled(history(prompt))]);
                    assert!(client.pooled.replace(output.num_cached_tokens).is_none(), "pooled twice");
                }
                Report::Ready { .. } | Report::Idle(_) => {}
            }
        }
    }
}

impl Client {
    fn receive(&mut self, output: &octavo_wire::ChoiceOutput, config: &EngineConfig) {
        assert!(self.failed.is_none(), "news of a request that failed");
        let sampling = &self.submission.sampling;
        if !output.prompt_logprobs.is_empty() {
            let count = sampling.prompt_logprobs.expect("log-probabilities of a prompt were asked for") as usize;
            assert!((output.choice, output.tokens.len(), output.num_cached_tokens) == (0, 0, 0));
            assert!(output.finish.is_none() && self.answers.iter().all(|answer| answer.tokens.is_empty()));
            for entry in &output.prompt_logprobs {
                self.num_scored += 1;
                let history = history(&self.submission.prompt[..self.num_scored]);
                assert_eq!(entry.rank, rank(history), "prompt token {}", self.num_scored);
                assert_eq!(entry.top, candidates(history).take(count).collect::<Vec<_>>());
            }
            return;
        }
        if sampling.prompt_logprobs.is_some() && !output.tokens.is_empty() {
            assert_eq!(self.num_scored, self.submission.prompt.len() - 1, "scores of the prompt are missing");
        }
        if sampling.beams.is_some() {
            return self.receive_beam(output, config);
        }
        let answer = &mut self.answers[output.choice as usize];
        assert!(answer.finish.is_none(), "news after the end");
        let mut tokens = self.submission.prompt.clone();
        tokens.extend(&answer.tokens);
        for &token in &output.tokens {
            let mut expected = self::answer(history(&tokens), output.choice);
            let banned = |token| token == EOS || sampling.stop_token_ids.contains(&token);
            while answer.tokens.len() < sampling.min_tokens as usize && banned(expected) {
                expected = (expected + 1) % VOCAB_SIZE;
            }
            // Of a structure only the engine knows what is allowed.
            let is_free = sampling.structure.is_none() && sampling.thinking_token_budget.is_none();
            let expected = if !is_free { token } else { expected };
            assert_eq!(token, expected, "request {} choice {}", output.request, output.choice);
            tokens.push(token);
            answer.tokens.push(token);
            if answer.tokens.len() > 1 {
                assert_eq!(answer.num_cached, output.num_cached_tokens);
            }
            answer.num_cached = output.num_cached_tokens;
        }
        assert_eq!(output.logprobs.len(), if sampling.logprobs.is_some() { output.tokens.len() } else { 0 });
        for (index, logprobs) in output.logprobs.iter().enumerate() {
            let before = &tokens[..tokens.len() - output.tokens.len() + index];
            let expected = candidates(history(before)).take(sampling.logprobs.unwrap_or(0) as usize);
            assert_eq!(logprobs.top, expected.collect::<Vec<_>>());
        }
        let last = *tokens.last().expect("a prompt is not empty");
        let free = answer.tokens.len() >= sampling.min_tokens as usize;
        let full = answer.tokens.len() as u32 >= sampling.max_tokens || tokens.len() as u32 >= config.max_model_len;
        let expected = match () {
            () if output.tokens.is_empty() => {
                assert!(self.aborted);
                Some(FinishReason::Abort)
            }
            () if (free && !sampling.ignore_eos || sampling.structure.is_some()) && last == EOS => {
                Some(FinishReason::EndOfSequence)
            }
            () if free && sampling.stop_token_ids.contains(&last) => Some(FinishReason::StopToken(last)),
            () if full => Some(FinishReason::Length),
            () => None,
        };
        answer.finish = output.finish.as_ref().map(|finish| finish.reason);
        assert_eq!(answer.finish, expected);
        if let Some(finish) = &output.finish {
            let timings = finish.timings;
            assert!(timings.first_token == 0.0 || timings.scheduled <= timings.first_token);
            assert!(timings.first_token <= timings.last_token);
        }
    }

    /// The end of a beam search: everything at once.
    fn receive_beam(&mut self, output: &octavo_wire::ChoiceOutput, config: &EngineConfig) {
        let answer = &mut self.answers[output.choice as usize];
        assert!(answer.finish.is_none(), "news after the end");
        answer.finish = output.finish.as_ref().map(|finish| finish.reason);
        assert!(answer.finish.is_some(), "news before the end");
        if output.tokens.is_empty() {
            assert!(self.aborted && answer.finish == Some(FinishReason::Abort));
            return;
        }
        if self.submission.sampling.beams.is_none_or(|beams| beams.stop != BeamStop::Exact) {
            return;
        }
        let best = best_beams(&self.submission, config);
        let expected = &best[output.choice as usize];
        assert_eq!(output.tokens, expected.tokens, "request {} beam {}", output.request, output.choice);
        assert_eq!(answer.finish, Some(expected.reason));
        let asked = self.submission.sampling.logprobs;
        assert_eq!(output.logprobs.len(), if asked.is_some() { output.tokens.len() } else { 0 });
        let mut tokens = self.submission.prompt.clone();
        for (logprobs, &token) in output.logprobs.iter().zip(&output.tokens) {
            let candidates: Vec<_> = candidates(history(&tokens)).collect();
            assert_eq!(candidates[logprobs.rank as usize - 1], (token, logprobs.logprob));
            assert_eq!(logprobs.top, candidates[..asked.unwrap_or(0) as usize]);
            tokens.push(token);
        }
        answer.tokens.clone_from(&output.tokens);
        answer.num_cached = output.num_cached_tokens;
    }
}
