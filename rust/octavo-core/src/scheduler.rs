//! Which sequences run in a step, and how many tokens of each.
//!
//! 1. `run_ready`: a sequence that misses one token gets it. There are at most as many as rows, so all fit.
//! 2. `catch_up`: running sequences that miss more share what is left of the token budget.
//! 3. `admit`: waiting sequences, in the order of their turns, while rows and blocks last.
//! 4. `top_up`: tokens that the shares left over go to those who miss some, first come first.
//!
//! Tokens that another sequence is computing in a step that is not committed are not computed twice: who needs them waits
//! for that step, and then takes them from the prefix cache.
//!
//! A sequence whose prompt's log-probabilities are wanted needs logits after each token, and so the place of a sample.
//! It has those of its rows, and borrows free rows for a step; what is over waits for the next.
//!
//! A share is half of what is left while others want some too: the first in turn is never slower than half speed,
//! and a long prompt never stops those behind it. A sequence which finds no free block preempts the one whose turn is
//! last; only one whose turn is later than its own, so that the first in turn always goes on and nobody starves. A
//! sequence in a step that is not committed is not preempted, and not planned again either, unless it may run ahead
//! (`EngineConfig::async_decode`).

use octavo_wire::Stats;

use crate::beam;
use crate::blocks::{BlockId, BlockPool};
use crate::config::EngineConfig;
use crate::hash::{BlockHash, BlockHasher};
use crate::plan::{Entry, Step};
use crate::prefix::{Content, Place};
use crate::queue::Waiting;
use crate::request::{Ending, Requests, Sequence, SequenceKey, Turn};
use crate::stats::Counters;

/// A share is not cut below this many tokens: smaller ones cost more in steps than they give in fairness.
const MIN_SHARE: u32 = 64;

pub(crate) struct Scheduler {
    block_size: u32,
    max_tokens: u32,
    max_deltas: usize,
    num_rows: usize,
    chunked: bool,
    caching: bool,
    async_decode: bool,
    /// Tokens of one catching-up sequence in a step.
    threshold: u32,
    pub waiting: Waiting,
    /// By turn.
    pub running: Vec<SequenceKey>,
    /// Free ones, smallest last.
    pub rows: Vec<u32>,
    pub pool: BlockPool,
    pub hasher: BlockHasher,
    pub counters: Counters,
    /// The first that waits, and how many blocks must be there before it is worth to look again.
    blocked: Option<(Turn, u32)>,
    /// In this step a sequence lacked blocks: it is not the time to admit others.
    pressed: bool,
    /// Free rows whose places for samples are borrowed in this step.
    num_lent: u32,
    // Scratch of one step.
    /// Those that ran when it began.
    order: Vec<SequenceKey>,
    behind: Vec<SequenceKey>,
    found: Vec<(BlockId, Content)>,
    /// The next block of each sequence that is catching up in a step.
    pending: Vec<BlockHash>,
}

impl Scheduler {
    pub fn new(config: &EngineConfig, max_deltas: usize, hasher: BlockHasher) -> Self {
        let threshold = config.long_prefill_token_threshold;
        Scheduler {
            block_size: config.block_size,
            max_tokens: config.max_num_batched_tokens,
            max_deltas,
            num_rows: config.max_num_seqs as usize,
            chunked: config.enable_chunked_prefill,
            caching: config.enable_prefix_caching,
            async_decode: config.async_decode,
            threshold: if threshold == 0 || !config.enable_chunked_prefill { u32::MAX } else { threshold },
            waiting: Waiting::default(),
            running: Vec::with_capacity(config.max_num_seqs as usize),
            rows: (0..config.max_num_seqs).rev().collect(),
            pool: BlockPool::new(config.num_blocks, config.block_size),
            hasher,
            counters: Counters::default(),
            blocked: None,
            pressed: false,
            order: Vec::new(),
            num_lent: 0,
            behind: Vec::new(),
            found: Vec::new(),
            pending: Vec::new(),
        }
    }

    pub fn num_free_rows(&self) -> usize {
        self.rows.len()
    }

    /// Decides the next step; it stays empty when nothing can run.
    pub fn schedule(&mut self, requests: &mut Requests, step: &mut Step, now: f64) {
        step.clear();
        self.pressed = false;
        self.num_lent = 0;
        self.run_ready(requests, step);
        let num_ready = step.entries.len();
        self.catch_up(requests, step);
        if !self.pressed {
            self.admit(requests, step, now);
        }
        self.top_up(requests, step, num_ready);
    }

    fn run_ready(&mut self, requests: &mut Requests, step: &mut Step) {
        self.behind.clear();
        self.pending.clear();
        self.order.clone_from(&self.running);
        for index in 0..self.order.len() {
            let key = self.order[index];
            let sequence = &requests.sequences[key];
            if sequence.row.is_none() || sequence.is_expanded {
                // Preempted meanwhile, or with nothing to compute.
            } else if sequence.in_flight > 0 {
                self.pending.extend(sequence.pending);
                if self.may_run_ahead(requests, key) {
                    self.run(requests, step, key, 1);
                }
            } else if sequence.num_missing() == 1 {
                self.run(requests, step, key, 1);
            } else {
                self.behind.push(key);
            }
        }
    }

    /// Whether a sequence in flight may get the token after the one that is being sampled.
    fn may_run_ahead(&self, requests: &Requests, key: SequenceKey) -> bool {
        // While blocks lack nobody does: who is in flight cannot be preempted, and one before it may wait for that.
        if !self.async_decode || self.pressed {
            return false;
        }
        let sequence = &requests.sequences[key];
        let is_sampled = sequence.num_planned == sequence.len() && sequence.num_choices == 1;
        let goes_on = sequence.ending == Ending::None && sequence.len() + 1 < sequence.limit;
        let request = &requests.requests[sequence.request];
        // The GPU counts what it samples. What the host samples is not known before the commit.
        let is_counted = !request.has_penalties() || sequence.num_counted > sequence.len();
        // Which tokens its beams go on with is known when all are sampled.
        let is_search = request.beams.is_some();
        is_sampled && goes_on && is_counted && !is_search && !request.needs_host(sequence.num_output())
    }

    fn catch_up(&mut self, requests: &mut Requests, step: &mut Step) {
        for index in 0..self.behind.len() {
            let key = self.behind[index];
            let left = self.max_tokens - step.num_tokens;
            // One that was preempted for its predecessor has no row any more.
            if left == 0 || requests.sequences[key].row.is_none() {
                continue;
            }
            self.adopt_prefix(requests, key);
            if self.is_pending(requests, key) {
                continue;
            }
            let others = index + 1 < self.behind.len() || !self.waiting.is_empty();
            let sequence = &requests.sequences[key];
            let count = self.share(sequence.num_computed, sequence.num_missing(), left, others, sequence.is_whole);
            let count = self.limit_scored(sequence, count);
            if count > 0 && self.run(requests, step, key, count) {
                self.announce(requests, key);
            }
        }
    }

    fn admit(&mut self, requests: &mut Requests, step: &mut Step, now: f64) {
        let mut reserved = None;
        while let Some(key) = self.waiting.first() {
            let left = self.max_tokens - step.num_tokens;
            let sequence = &requests.sequences[key];
            let (turn, length, num_choices) = (sequence.turn, sequence.len(), sequence.num_choices);
            let is_whole = sequence.is_whole;
            if left == 0 || self.rows.len() < (num_choices + self.num_lent) as usize || self.pool.num_free() == 0 {
                return;
            }
            // Free blocks, but for those which running sequences still want for tokens they have, and a few for growth.
            let reserved = reserved.get_or_insert_with(|| self.num_reserved(requests));
            let spare = if self.running.is_empty() { 0 } else { self.pool.num_blocks() / 100 };
            let available = self.pool.num_free().saturating_sub(*reserved + spare);
            if self.blocked.is_some_and(|(blocked, enough)| blocked == turn && available < enough) {
                return;
            }
            self.find_prefix(requests, key);
            let start = self.found.len() as u32 * self.block_size;
            let num_held = self.found.iter().filter(|(block, _)| !self.pool.is_free(*block)).count() as u32;
            if length.div_ceil(self.block_size) - num_held > available {
                self.blocked = Some((turn, available + 1));
                return;
            }
            let others = self.waiting.len() > 1 && self.rows.len() > num_choices as usize;
            let count = self.share(start, length - start, left, others, is_whole);
            let num_columns = (start + count).div_ceil(self.block_size) as usize;
            if count == 0 || step.num_deltas + num_columns > self.max_deltas {
                return;
            }
            self.blocked = None;
            self.waiting.remove(turn);
            self.start(requests, key, now);
            let count = self.limit_scored(&requests.sequences[key], count);
            if !self.is_pending(requests, key) && self.run(requests, step, key, count) {
                self.announce(requests, key);
            }
            *reserved += length.div_ceil(self.block_size) - requests.sequences[key].table.len() as u32;
        }
    }

    /// Gives rows and the found prefix to a sequence that begins to run.
    fn start(&mut self, requests: &mut Requests, key: SequenceKey, now: f64) {
        let sequence = &mut requests.sequences[key];
        let request = &mut requests.requests[sequence.request];
        sequence.row = self.rows.pop();
        let num_more = sequence.num_choices as usize - 1;
        sequence.fork_rows.extend(self.rows.drain(self.rows.len() - num_more..).rev());
        if request.scheduled == 0.0 {
            request.scheduled = now;
            self.counters.prefix_queries +=
                if self.caching && !sequence.is_scoring() { u64::from(sequence.num_prompt) } else { 0 };
        }
        let position = self.position(requests, requests.sequences[key].turn);
        self.running.insert(position, key);
        self.adopt_found(requests, key);
    }

    fn top_up(&mut self, requests: &mut Requests, step: &mut Step, num_ready: usize) {
        for entry in &mut step.entries[num_ready..] {
            let left = self.max_tokens - step.num_tokens;
            let sequence = &mut requests.sequences[entry.key];
            if sequence.is_scoring() {
                continue;
            }
            let end = entry.start + entry.count;
            let missing = (sequence.len() - end).min(self.threshold.saturating_sub(entry.count));
            let count = missing.min(left);
            let count = self.round(end, count, sequence.len() - end);
            let num_blocks = (end + count).div_ceil(self.block_size) - sequence.table.len() as u32;
            let fits = num_blocks <= self.pool.num_free() && step.num_deltas + num_blocks as usize <= self.max_deltas;
            if count == 0 || !self.chunked || !fits {
                continue;
            }
            (0..num_blocks).for_each(|_| assert!(self.pool.grow(&mut sequence.table)));
            entry.count += count;
            sequence.num_planned += count;
            entry.num_samples = if end + count == sequence.len() { sequence.num_choices } else { 0 };
            step.num_tokens += count;
            step.num_deltas += num_blocks as usize;
        }
    }

    /// How many of its missing tokens a sequence gets.
    fn share(&self, start: u32, missing: u32, left: u32, others: bool, is_whole: bool) -> u32 {
        if !self.chunked || is_whole {
            return if missing <= left { missing } else { 0 };
        }
        let share = if others { (left / 2).max(MIN_SHARE) } else { left };
        self.round(start, missing.min(left).min(share).min(self.threshold), missing)
    }

    /// How many of `count` tokens there are places of samples for. At least one: the first choice's.
    fn limit_scored(&self, sequence: &Sequence, count: u32) -> u32 {
        if !sequence.is_scoring() || count == 0 {
            return count;
        }
        // While others wait for rows, half of them is left.
        let free = self.rows.len() as u32;
        let free = if self.waiting.is_empty() { free } else { free / 2 };
        let room = sequence.num_choices + free.saturating_sub(self.num_lent);
        let (start, end) = (sequence.num_planned, sequence.num_planned + count);
        let num_scored = sequence.to_score(start, end).len() as u32;
        let is_last = end == sequence.len();
        if num_scored + if is_last { sequence.num_choices } else { 0 } <= room {
            return count;
        }
        let num_free_of_charge = sequence.num_scored.saturating_sub(start);
        (count - u32::from(is_last)).min(num_free_of_charge + room)
    }

    /// Chunks end with a block, where what comes next may already be cached; small ones end anywhere.
    fn round(&self, start: u32, count: u32, missing: u32) -> u32 {
        let end = (start + count) / self.block_size * self.block_size;
        if count < missing && end > start { end - start } else { count }
    }

    /// Adds `count` tokens of a running sequence to the step; false when there is no place for them.
    fn run(&mut self, requests: &mut Requests, step: &mut Step, key: SequenceKey, count: u32) -> bool {
        let (start, end, column, num_new, shared) = loop {
            let sequence = &requests.sequences[key];
            let (start, end) = (sequence.num_planned, sequence.num_planned + count);
            let column = (start / self.block_size) as usize;
            let num_columns = sequence.table.len();
            let num_new = (end.div_ceil(self.block_size) as usize).saturating_sub(num_columns);
            let shared = column < num_columns && self.pool.is_shared(sequence.table.blocks()[column]);
            let num_deltas = num_columns + num_new - sequence.num_synced as usize + usize::from(shared);
            if step.num_deltas + num_deltas > self.max_deltas {
                self.pressed = true;
                return false;
            }
            if self.pool.num_free() >= num_new as u32 + u32::from(shared) {
                step.num_deltas += num_deltas;
                break (start, end, column, num_new, shared);
            }
            // To preempt may free a block, or end the sharing.
            if !self.preempt_after(requests, sequence.turn) {
                return false;
            }
        };
        let sequence = &mut requests.sequences[key];
        if shared {
            // No step copies from and to one block: only the choices of one request share a block that is not full,
            // and a block that preemption takes from the last of them is taken again after all of them had their turn.
            let copy = self.pool.copy_on_write(&mut sequence.table, column).expect("there is room");
            step.copies.push(copy);
            if (column as u32) < sequence.num_synced {
                step.replacements.push((sequence.row.expect("it runs"), column as u32, copy.1));
            }
        }
        (0..num_new).for_each(|_| assert!(self.pool.grow(&mut sequence.table)));
        sequence.in_flight += 1;
        sequence.num_planned = end;
        sequence.pending = None;
        let num_samples = if end >= sequence.len() { sequence.num_choices } else { 0 };
        let num_scored = sequence.to_score(start, end).len() as u32;
        self.num_lent += (num_scored + num_samples).saturating_sub(sequence.num_choices);
        step.entries.push(Entry { key, start, count, num_scored, num_samples, on_host: false });
        step.num_tokens += count;
        true
    }

    /// Preempts the last sequence in turn which is in no step; false when there is none that yields to `turn`.
    fn preempt_after(&mut self, requests: &mut Requests, turn: Turn) -> bool {
        self.pressed = true;
        let yields = |&key: &SequenceKey| {
            let sequence = &requests.sequences[key];
            // A beam also yields to those that it waits for.
            let is_later = sequence.turn > turn || sequence.is_expanded && sequence.turn.number == turn.number;
            sequence.in_flight == 0 && is_later
        };
        let Some(index) = self.running.iter().rposition(yields) else { return false };
        let key = self.running[index];
        self.preempt(requests, key);
        let request = requests.sequences[key].request;
        if requests.requests[request].beams.is_some() {
            beam::park(request, requests, self);
        }
        true
    }

    /// Takes row and blocks from a sequence that is in no step. It waits for others, unless it has nothing to compute.
    pub fn preempt(&mut self, requests: &mut Requests, key: SequenceKey) {
        let position = self.position(requests, requests.sequences[key].turn);
        self.running.remove(position);
        let sequence = &mut requests.sequences[key];
        self.vacate(sequence);
        sequence.num_preemptions += 1;
        self.counters.num_preemptions += 1;
        if sequence.is_queued() {
            self.waiting.push(sequence.turn, key);
        }
    }

    /// Takes rows and blocks from a sequence; its tokens stay.
    fn vacate(&mut self, sequence: &mut Sequence) {
        self.pool.release(&mut sequence.table);
        self.rows.extend(sequence.row.take().into_iter().chain(sequence.fork_rows.drain(..)));
        sequence.num_computed = 0;
        sequence.num_planned = 0;
        sequence.num_synced = 0;
        sequence.num_counted = 0;
        sequence.num_registered = 0;
        sequence.content = Some(Content::ROOT);
    }

    /// Ends a sequence that is in no step, running or waiting.
    pub fn end(&mut self, requests: &mut Requests, key: SequenceKey) {
        let turn = requests.sequences[key].turn;
        if requests.sequences[key].row.is_some() {
            let position = self.position(requests, turn);
            self.running.remove(position);
        } else {
            self.waiting.remove(turn);
        }
        self.vacate(&mut requests.sequences[key]);
        requests.remove(key);
    }

    /// Makes each choice of a request whose prompt is computed a sequence of its own.
    pub fn fork(&mut self, requests: &mut Requests, key: SequenceKey) {
        let origin = &mut requests.sequences[key];
        origin.num_choices = 1;
        for (index, row) in std::mem::take(&mut origin.fork_rows).into_iter().enumerate() {
            let origin = &requests.sequences[key];
            let turn = Turn { choice: index as u32 + 1, ..origin.turn };
            let sequence = Sequence {
                request: origin.request,
                turn,
                tokens: origin.tokens.clone(),
                table: self.pool.fork(&origin.table),
                num_synced: 0,
                row: Some(row),
                fork_rows: Vec::new(),
                hashes: origin.hashes.clone(),
                stage: origin.stage.clone(),
                ..*origin
            };
            let fork = requests.attach(sequence);
            let position = self.position(requests, turn);
            self.running.insert(position, fork);
        }
    }

    /// The step computed `count` more tokens of a sequence: full blocks become findable.
    pub fn computed(&mut self, requests: &mut Requests, key: SequenceKey, count: u32) {
        let sequence = &mut requests.sequences[key];
        let (start, end) = (sequence.num_computed, sequence.num_computed + count);
        sequence.num_computed = end;
        let block_size = self.block_size;
        for column in start / block_size..end.div_ceil(block_size) {
            let count = (end - column * block_size).min(block_size);
            self.pool.fill(sequence.table.blocks()[column as usize], count);
        }
        if !self.caching {
            return;
        }
        let root = requests.requests[sequence.request].root;
        let salt = &requests.requests[sequence.request].salt;
        while let (Some(parent), true) = (sequence.content, (sequence.num_registered + 1) * block_size <= end) {
            let index = sequence.num_registered as usize;
            let block = sequence.table.blocks()[index];
            let (hash, tokens) = sequence.hash_block(index, block_size as usize, root, &mut self.hasher);
            let content = self.pool.prefix.insert(block, Place { hash, parent, salt }, tokens);
            sequence.content = content;
            sequence.num_registered += 1;
        }
    }

    /// Continues the table of a running sequence with blocks that others have computed since it was admitted.
    fn adopt_prefix(&mut self, requests: &mut Requests, key: SequenceKey) {
        let sequence = &requests.sequences[key];
        let aligned = sequence.num_registered * self.block_size == sequence.num_computed;
        if aligned && sequence.table.len() == sequence.num_registered as usize {
            self.find_prefix(requests, key);
            self.adopt_found(requests, key);
        }
    }

    /// Hash of the first block that a sequence could still take from the prefix cache.
    fn next_hash(&mut self, requests: &mut Requests, key: SequenceKey) -> Option<BlockHash> {
        let sequence = &mut requests.sequences[key];
        let index = sequence.num_registered;
        if !self.caching
            || sequence.is_whole
            || sequence.content.is_none()
            || index >= (sequence.len() - 1) / self.block_size
        {
            return None;
        }
        let root = requests.requests[sequence.request].root;
        Some(sequence.hash_block(index as usize, self.block_size as usize, root, &mut self.hasher).0)
    }

    /// Whether a step that is not committed computes the next block of a sequence, as part of another.
    fn is_pending(&mut self, requests: &mut Requests, key: SequenceKey) -> bool {
        let waits = !self.pending.is_empty() && !requests.sequences[key].is_scoring();
        waits && self.next_hash(requests, key).is_some_and(|hash| self.pending.contains(&hash))
    }

    /// Says which block a sequence is computing.
    fn announce(&mut self, requests: &mut Requests, key: SequenceKey) {
        let hash = self.next_hash(requests, key);
        requests.sequences[key].pending = hash;
        self.pending.extend(hash);
    }

    /// Finds the cached blocks that continue a sequence. At least one token is left to compute, for its logits.
    fn find_prefix(&mut self, requests: &mut Requests, key: SequenceKey) {
        self.found.clear();
        let sequence = &mut requests.sequences[key];
        let request = &requests.requests[sequence.request];
        let (Some(mut parent), true) = (sequence.content, self.caching && !sequence.is_whole && !sequence.is_scoring())
        else {
            return;
        };
        for index in sequence.num_registered..(sequence.len() - 1) / self.block_size {
            let (hash, tokens) =
                sequence.hash_block(index as usize, self.block_size as usize, request.root, &mut self.hasher);
            let place = Place { hash, parent, salt: &request.salt };
            let Some((block, content)) = self.pool.prefix.find(place, tokens) else { return };
            self.found.push((block, content));
            parent = content;
        }
    }

    fn adopt_found(&mut self, requests: &mut Requests, key: SequenceKey) {
        let sequence = &mut requests.sequences[key];
        for &(block, content) in &self.found {
            self.pool.adopt(&mut sequence.table, block);
            sequence.content = Some(content);
        }
        let num_tokens = self.found.len() as u32 * self.block_size;
        sequence.num_registered += self.found.len() as u32;
        sequence.num_computed += num_tokens;
        sequence.num_planned += num_tokens;
        if sequence.num_output() == 0 && sequence.num_preemptions == 0 {
            requests.requests[sequence.request].num_cached += num_tokens;
            self.counters.prefix_hits += u64::from(num_tokens);
        }
    }

    /// The state, with the counters.
    pub fn stats(&self) -> Stats {
        Stats {
            num_running: self.running.len() as u32,
            num_waiting: self.waiting.len() as u32,
            num_blocks: self.pool.num_blocks(),
            num_used_blocks: self.pool.num_blocks() - self.pool.num_free(),
            num_wasted_slots: self.pool.num_wasted(),
            ..self.counters.stats()
        }
    }

    /// Blocks that running sequences lack for the tokens they have.
    fn num_reserved(&self, requests: &Requests) -> u32 {
        let missing = |&key: &SequenceKey| {
            let sequence = &requests.sequences[key];
            sequence.len().div_ceil(self.block_size).saturating_sub(sequence.table.len() as u32)
        };
        self.running.iter().map(missing).sum()
    }

    /// Where a turn stands, or would stand, in `running`.
    pub fn position(&self, requests: &Requests, turn: Turn) -> usize {
        self.running.partition_point(|&key| requests.sequences[key].turn < turn)
    }

    /// Says what is wrong, if anything.
    pub fn check(&self, requests: &Requests) -> Result<(), String> {
        let sequences = &requests.sequences;
        self.pool.check(sequences.iter().map(|(_, sequence)| &sequence.table))?;
        let mut rows = self.rows.clone();
        for &key in &self.running {
            let sequence = &sequences[key];
            rows.push(sequence.row.ok_or("a running sequence has no row")?);
            rows.extend(&sequence.fork_rows);
            let (length, computed, planned) =
                (sequence.table.len() as u32, sequence.num_computed, sequence.num_planned);
            if length < planned.div_ceil(self.block_size)
                || (computed == planned) != (sequence.in_flight == 0)
                || planned > sequence.len() + u32::from(self.async_decode)
                || sequence.num_synced > length
                || (sequence.num_missing() == 0 && sequence.in_flight == 0) != sequence.is_expanded
            {
                return Err(format!("{computed} tokens of a sequence are computed, in {length} blocks"));
            }
            let registered = sequence.table.blocks()[..sequence.num_registered as usize].iter();
            for (block, tokens) in registered.zip(sequence.tokens.chunks(self.block_size as usize)) {
                if self.pool.prefix.contains(*block) && self.pool.prefix.tokens_of(*block) != tokens {
                    return Err(format!("block {block} is cached with tokens of another sequence"));
                }
            }
        }
        rows.sort_unstable();
        if !rows.iter().copied().eq(0..rows.len() as u32) || rows.len() != self.num_rows {
            return Err("a row is lost or taken twice".into());
        }
        if !self.running.is_sorted_by_key(|&key| sequences[key].turn) {
            return Err("the running sequences are out of order".into());
        }
        let idle =
            |key| sequences[key].row.is_none() && sequences[key].table.len() == 0 && sequences[key].in_flight == 0;
        let is_parked = |sequence: &Sequence| sequence.is_expanded && sequence.row.is_none();
        let parked: Vec<SequenceKey> =
            sequences.iter().filter(|(_, sequence)| is_parked(sequence)).map(|(key, _)| key).collect();
        let num_known = self.waiting.len() + self.running.len() + parked.len();
        if !self.waiting.keys().chain(parked).all(idle) || num_known != sequences.len() {
            return Err("a waiting sequence holds something, or a sequence is nowhere".into());
        }
        for (_, request) in &requests.requests {
            let beams = || request.choices.iter().flatten().map(|&key| &sequences[key]);
            let holds = |sequence: &Sequence| sequence.is_expanded && sequence.row.is_some();
            if beams().any(holds) && beams().any(Sequence::is_queued) {
                return Err("a beam holds a row for one that waits".into());
            }
        }
        let live: u32 = requests.requests.iter().map(|(_, request)| request.num_live).sum();
        if live as usize != sequences.len() {
            return Err(format!("{live} sequences live, {} exist", sequences.len()));
        }
        Ok(())
    }
}
