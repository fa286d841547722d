//! A planned step: who runs, with how many tokens, and its columns.
//!
//! [`Step`] is what the scheduler decides and the commit needs; [`Plan`] is the part that the backend sees as scalars;
//! [`Step::fill`] writes the rest into an arena, and [`Step::fill_device`] what a GPU needs besides.

use octavo_wire::RequestId;

use crate::arena::{ArenaView, DeviceView};
use crate::attention_work::WorkPlanner;
use crate::blocks::BlockId;
use crate::constraint::Mask;

use crate::history;
use crate::pooling::{PoolRow, Pooled};
use crate::request::{Requests, SequenceKey};

/// One step, as scalars. The columns lie in arena number `arena`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Counts from 1; names the step to `commit`, `fail` and `sampling`.
    pub epoch: u64,
    pub arena: usize,
    pub num_reqs: u32,
    pub num_tokens: u32,
    pub num_samples: u32,
    /// Samples whose logits Python changes first.
    pub num_processed: u32,
    pub max_query_len: u32,
    pub max_context_len: u32,
    pub num_table_deltas: u32,
    pub num_block_copies: u32,
    /// Samples that `host_sample` marks; 0 without `EngineConfig::device_work`, as is the next.
    pub num_host_samples: u32,
    /// Lists of tokens that rows have had.
    pub num_histories: u32,
}

/// What the sampler needs for one sample of a step.
#[derive(Clone, Copy, Debug)]
pub struct SampleRow<'a> {
    pub request: RequestId,
    /// Python's logits processors change its logits first.
    pub is_processed: bool,
    /// 0 is greedy.
    pub temperature: f32,
    /// 0 keeps all.
    pub top_k: u32,
    pub top_p: f32,
    pub min_p: f32,
    pub presence_penalty: f32,
    pub frequency_penalty: f32,
    pub repetition_penalty: f32,
    pub prompt: &'a [u32],
    /// The tokens generated so far, as far as they are known.
    pub output: &'a [u32],
    /// The request's seed, or one drawn from the engine's seed and the request's number.
    pub seed: u64,
    pub choice: u32,
    /// Index among the generated tokens of the one to be sampled. Seed, choice and step together name the random draw.
    pub step: u64,
    pub mask: Mask<'a>,
    /// Tokens which cannot be chosen: stop and end-of-sequence tokens before `min_tokens`, or before a structure begins.
    pub banned: &'a [u32],
    /// `Some`: no other token can be chosen.
    pub allowed: Option<&'a [u32]>,
    /// The last token of each cannot be chosen where `output` ends with those before it.
    pub bad_words: &'a [Vec<u32>],
    /// Sorted by token.
    pub logit_bias: &'a [(u32, f32)],
    pub num_logprobs: Option<u32>,
    /// Log-probabilities of these are wanted in place of the best, unless there are none.
    pub named: &'a [u32],
    /// `Some`: a token of the prompt whose log-probability is wanted; nothing is sampled.
    pub given: Option<u32>,
}

/// One sequence's part of a step: its tokens `start..start + count`.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    pub key: SequenceKey,
    pub start: u32,
    pub count: u32,
    /// Prompt tokens whose logits give the next one's log-probability. They take samples' places, before the choices.
    pub num_scored: u32,
    /// Choices sampled after the last token; 0 while tokens are missing.
    pub num_samples: u32,
    /// For a GPU: its samples are left to the host.
    pub on_host: bool,
}

/// A change of a block table that is not at its end: row, column, block.
type Replacement = (u32, u32, BlockId);

/// A step from its planning to its commit.
#[derive(Default)]
pub(crate) struct Step {
    pub plan: Plan,
    pub entries: Vec<Entry>,
    /// Copies of whole blocks: source, target.
    pub copies: Vec<(BlockId, BlockId)>,
    pub replacements: Vec<Replacement>,
    pub num_tokens: u32,
    /// Table deltas that the entries will take.
    pub num_deltas: usize,
    /// What the backend made of prompts, by rising index.
    pub pooled: Vec<Pooled>,
    /// By sample, the lists of log-probabilities for which the columns have no room.
    pub lists: Vec<LogprobList>,
}

/// (token, log-probability)
pub type LogprobList = Vec<(u32, f32)>;

impl Step {
    pub fn clear(&mut self) {
        self.entries.clear();
        self.copies.clear();
        self.replacements.clear();
        self.num_tokens = 0;
        self.num_deltas = 0;
        self.pooled.clear();
        self.lists.clear();
    }

    /// Writes the input columns and the scalars.
    pub fn fill(&mut self, epoch: u64, arena: usize, requests: &mut Requests, block_size: u32, view: &mut ArenaView) {
        let (mut num_tokens, mut num_samples, mut num_deltas) = (0, 0, 0);
        let (mut max_query_len, mut max_context_len, mut num_processed) = (0, 0, 0);
        let mut delta = |row: u32, column: usize, block: BlockId| {
            view.delta_row[num_deltas] = row as i32;
            view.delta_column[num_deltas] = column as i32;
            view.delta_block[num_deltas] = block as i32;
            num_deltas += 1;
        };
        for &(row, column, block) in &self.replacements {
            delta(row, column as usize, block);
        }
        for (index, entry) in self.entries.iter().enumerate() {
            let sequence = &mut requests.sequences[entry.key];
            let row = sequence.row.expect("a planned sequence has a row");
            let blocks = sequence.table.blocks();
            for (column, &block) in blocks.iter().enumerate().skip(sequence.num_synced as usize) {
                delta(row, column, block);
            }
            sequence.num_synced = blocks.len() as u32;

            let (start, count) = (entry.start as usize, entry.count as usize);
            view.row[index] = row as i32;
            view.query_start[index] = num_tokens as i32;
            view.seq_len[index] = (start + count) as i32;
            let first_token = num_tokens;
            for position in start..start + count {
                let block = blocks[position / block_size as usize];
                view.input_ids[num_tokens] = match sequence.tokens.get(position) {
                    Some(&token) => token as i32,
                    None => -1 - row as i32,
                };
                view.positions[num_tokens] = position as i32;
                view.slot_mapping[num_tokens] =
                    i64::from(block) * i64::from(block_size) + (position % block_size as usize) as i64;
                num_tokens += 1;
            }
            for position in sequence.to_score(entry.start, entry.start + entry.count) {
                view.logits_index[num_samples] = (first_token + position as usize - start) as i32;
                view.sample_row[num_samples] = row as i32;
                num_samples += 1;
            }
            for choice in 0..entry.num_samples as usize {
                let sample_row = if choice == 0 { row } else { sequence.fork_rows[choice - 1] };
                view.logits_index[num_samples] = num_tokens as i32 - 1;
                view.sample_row[num_samples] = sample_row as i32;
                num_samples += 1;
            }
            if requests.requests[sequence.request].sampling.is_processed {
                num_processed += entry.num_samples;
            }
            max_query_len = max_query_len.max(entry.count);
            max_context_len = max_context_len.max(entry.start + entry.count);
        }
        view.query_start[self.entries.len()] = num_tokens as i32;
        // A graph for more samples reads the logits of tokens that it has.
        let num_before = (self.plan.num_samples as usize).max(num_samples);
        view.logits_index[num_samples..num_before].fill(0);
        for (index, &(source, target)) in self.copies.iter().enumerate() {
            view.copy_source[index] = source as i32;
            view.copy_target[index] = target as i32;
        }
        debug_assert!(num_tokens == self.num_tokens as usize && num_deltas <= self.num_deltas);
        self.plan = Plan {
            epoch,
            arena,
            num_reqs: self.entries.len() as u32,
            num_tokens: num_tokens as u32,
            num_samples: num_samples as u32,
            num_processed,
            max_query_len,
            max_context_len,
            num_table_deltas: num_deltas as u32,
            num_block_copies: self.copies.len() as u32,
            num_host_samples: 0,
            num_histories: 0,
        };
    }

    /// Writes the columns that only a GPU needs, after `fill`.
    pub fn fill_device(&mut self, requests: &mut Requests, planner: &mut WorkPlanner, view: &mut DeviceView) {
        let work = planner.fill(&self.entries, view);
        let num_histories = history::fill(&mut self.entries, requests, &mut view.histories);
        let columns = &mut view.samples;
        let mut num_host_samples = 0;
        let on_host = self.entries.iter().flat_map(|entry| {
            let scored = (0..entry.num_scored).map(|_| true);
            scored.chain((0..entry.num_samples).map(|_| entry.on_host))
        });
        for (index, (row, on_host)) in self.sampling(requests).zip(on_host).enumerate() {
            columns.temperature[index] = row.temperature;
            columns.top_k[index] = row.top_k.min(i32::MAX as u32) as i32;
            columns.top_p[index] = row.top_p;
            columns.min_p[index] = row.min_p;
            columns.seed[index] = row.seed as i64;
            columns.choice[index] = row.choice as i32;
            columns.draw_step[index] = row.step as i64;
            columns.host_sample[index] = on_host.into();
            columns.num_logprobs[index] = row.num_logprobs.map_or(-1, |count| count as i32);
            columns.presence_penalty[index] = row.presence_penalty;
            columns.frequency_penalty[index] = row.frequency_penalty;
            columns.repetition_penalty[index] = row.repetition_penalty;
            num_host_samples += u32::from(on_host);
        }
        let plan = &mut self.plan;
        plan.num_host_samples = num_host_samples;
        plan.num_histories = num_histories as u32;
        view.counts.copy_from_slice(&[
            plan.num_reqs as i32,
            plan.num_tokens as i32,
            plan.num_samples as i32,
            plan.num_table_deltas as i32,
            plan.num_block_copies as i32,
            work.decode_items as i32,
            work.prefill_items as i32,
            work.merges as i32,
            num_histories as i32,
        ]);
    }

    /// The prompts that end with this step, in order, where they are pooled.
    pub fn pooling<'a>(&'a self, requests: &'a Requests) -> impl Iterator<Item = PoolRow> + 'a {
        self.entries.iter().enumerate().filter(|(_, entry)| entry.num_samples > 0).filter_map(|(index, entry)| {
            let is_whole = requests.sequences[entry.key].is_whole;
            requests.request_of(entry.key).pooling.map(|pooling| PoolRow { index, pooling, is_whole })
        })
    }

    /// The sampler's view of each sample, in order.
    pub fn sampling<'a>(&'a self, requests: &'a Requests) -> impl Iterator<Item = SampleRow<'a>> {
        let has_samples = |entry: &&Entry| entry.num_samples + entry.num_scored > 0;
        self.entries.iter().filter(has_samples).flat_map(move |entry| {
            let sequence = &requests.sequences[entry.key];
            let request = &requests.requests[sequence.request];
            let sampling = &request.sampling;
            // Not that of the sequence, which knows the tokens of committed steps only.
            let num_output = (entry.start + entry.count).saturating_sub(sequence.num_prompt);
            let row = move |choice| SampleRow {
                request: request.id,
                is_processed: sampling.is_processed,
                temperature: sampling.temperature,
                top_k: sampling.top_k,
                top_p: sampling.top_p,
                min_p: sampling.min_p,
                presence_penalty: sampling.presence_penalty,
                frequency_penalty: sampling.frequency_penalty,
                repetition_penalty: sampling.repetition_penalty,
                prompt: sequence.prompt(),
                output: sequence.output(),
                seed: request.seed,
                choice: sequence.turn.choice + choice,
                step: u64::from(num_output),
                mask: sequence.stage.mask(),
                banned: request.banned_at(&sequence.stage, num_output),
                allowed: Some(sampling.allowed_token_ids.as_slice()).filter(|allowed| !allowed.is_empty()),
                bad_words: &sampling.bad_words,
                logit_bias: &sampling.logit_bias,
                num_logprobs: request.num_logprobs(),
                named: &sampling.logprob_token_ids,
                given: None,
            };
            let scored = sequence.to_score(entry.start, entry.start + entry.count).map(move |position| SampleRow {
                is_processed: false,
                num_logprobs: sampling.prompt_logprobs,
                named: &[],
                given: sequence.tokens.get(position as usize + 1).copied(),
                mask: Mask::All,
                ..row(0)
            });
            scored.chain((0..entry.num_samples).map(row))
        })
    }
}
