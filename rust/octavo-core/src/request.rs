//! A request and its sequences.
//!
//! A request with n choices is one sequence until its prompt is computed: then it forks, and each choice is a sequence
//! of its own. [`Requests`] holds both, by dense keys; a key stays valid until the sequence is removed.

use std::ops::Range;
use std::sync::Arc;

use octavo_wire::{Pooling, RequestId, Sampling};
use slab::Slab;

use crate::beam::BeamSearch;
use crate::blocks::BlockTable;
use crate::constraint::{Rules, Stage};
use crate::hash::{BlockHash, BlockHasher, HashKeyed};
use crate::prefix::Content;

/// Key of a sequence in [`Requests`].
pub(crate) type SequenceKey = usize;

/// Log-probabilities of a sample that the columns have room for, and that a GPU gives (cuda/sampling.cu: MOST_LOGPROBS).
pub(crate) const MOST_LOGPROBS: u32 = 32;

/// The order in which sequences run; preemption takes the greatest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Turn {
    /// 0 under fcfs.
    pub priority: i32,
    /// Counts the submissions.
    pub number: u64,
    pub choice: u32,
}

pub(crate) struct Request {
    pub id: RequestId,
    pub sampling: Sampling,
    /// `Some`: it ends with its prompt.
    pub pooling: Option<Pooling>,
    /// Stop and end-of-sequence tokens while the output is shorter than `min_tokens`.
    pub banned: Vec<u32>,
    pub rules: Rules,
    pub seed: u64,
    pub salt: Option<Arc<str>>,
    /// Hash before the first block.
    pub root: BlockHash,
    pub num_cached: u32,
    pub arrival: f64,
    /// First time that a step planned it; 0 before.
    pub scheduled: f64,
    /// By choice; `None` before the fork and after the end.
    pub choices: Vec<Option<SequenceKey>>,
    /// Sequences that have not ended.
    pub num_live: u32,
    /// `Some`: its sequences are the beams of a search.
    pub beams: Option<Box<BeamSearch>>,
}

impl Request {
    /// Whether no GPU can sample the token after `num_output` others.
    pub fn needs_host(&self, num_output: u32) -> bool {
        let sampling = &self.sampling;
        !sampling.logit_bias.is_empty()
            || !sampling.allowed_token_ids.is_empty()
            || !sampling.bad_words.is_empty()
            || !self.rules.is_empty()
            || sampling.is_processed
            || self.num_logprobs().is_some_and(|count| count > MOST_LOGPROBS)
            || !sampling.logprob_token_ids.is_empty()
            || !self.banned_after(num_output).is_empty()
    }

    /// Log-probabilities that a sample gives.
    pub fn num_logprobs(&self) -> Option<u32> {
        let candidates = self.beams.as_ref().map(|search| search.num_candidates());
        self.sampling.logprobs.max(candidates)
    }

    pub fn has_penalties(&self) -> bool {
        let sampling = &self.sampling;
        (sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty) != (0.0, 0.0, 1.0)
    }

    /// Tokens that cannot come at a stage, after `num_output` others. A mask has them taken out already.
    pub fn banned_at(&self, stage: &Stage, num_output: u32) -> &[u32] {
        if !stage.mask().is_all() {
            return &[];
        }
        let banned = self.banned_after(num_output);
        if banned.is_empty() { self.rules.banned_in(stage) } else { banned }
    }

    /// Tokens that cannot come after `num_output` others.
    fn banned_after(&self, num_output: u32) -> &[u32] {
        if num_output < self.sampling.min_tokens { &self.banned } else { &[] }
    }
}

/// What happens at the commit to a sequence that came to its end while it was in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    None,
    Abort,
    /// Nothing more is reported. What other steps in flight sample for it is void.
    Silent,
}

pub(crate) struct Sequence {
    pub request: usize,
    pub turn: Turn,
    /// Prompt, then output.
    pub tokens: Vec<u32>,
    pub num_prompt: u32,
    /// Tokens whose keys and values are in the blocks.
    pub num_computed: u32,
    /// These, and those that the steps in flight compute. One more than the tokens when it was planned ahead.
    pub num_planned: u32,
    /// Its prompt runs in one step, and takes nothing from the prefix cache.
    pub is_whole: bool,
    /// The length at which it ends.
    pub limit: u32,
    pub table: BlockTable,
    /// Leading columns of the table which the row has.
    pub num_synced: u32,
    /// `Some` while it runs.
    pub row: Option<u32>,
    /// With penalties on a GPU: its first tokens, which the row has; one that a step in flight samples there counts too.
    pub num_counted: u32,
    /// Rows kept for the choices that will fork from it.
    pub fork_rows: Vec<u32>,
    /// Choices that it stands for: n before the fork, then 1.
    pub num_choices: u32,
    /// Leading prompt tokens after which the next one's log-probability is reported, or not asked for.
    pub num_scored: u32,
    /// Of the leading full blocks.
    pub hashes: Vec<BlockHash>,
    /// Leading blocks whose content is known to the prefix cache.
    pub num_registered: u32,
    /// Content of the last of them; `None` when nothing that follows can be found.
    pub content: Option<Content>,
    /// Steps that it is part of and that are not committed: two when it was planned ahead.
    pub in_flight: u32,
    /// The block that this step computes for it, when others could use it too.
    pub pending: Option<BlockHash>,
    pub ending: Ending,
    pub stage: Stage,
    /// A beam whose candidates are known; it waits for those of the others.
    pub is_expanded: bool,
    pub first_token: f64,
    pub num_preemptions: u32,
}

impl Sequence {
    pub fn len(&self) -> u32 {
        self.tokens.len() as u32
    }
    /// Whether it waits for a row.
    pub fn is_queued(&self) -> bool {
        self.row.is_none() && !self.is_expanded
    }
    /// Tokens to be computed before the next one can be sampled.
    pub fn num_missing(&self) -> u32 {
        self.len() - self.num_computed
    }
    pub fn num_output(&self) -> u32 {
        self.len() - self.num_prompt
    }
    /// Those of the tokens `start..end` after which the next one's log-probability is still to be reported.
    pub fn to_score(&self, start: u32, end: u32) -> Range<u32> {
        let last = end.min(self.num_prompt - 1);
        start.max(self.num_scored).min(last)..last
    }
    /// Whether logits of its prompt are still wanted: it takes nothing from the prefix cache then.
    pub fn is_scoring(&self) -> bool {
        self.num_scored + 1 < self.num_prompt
    }
    pub fn prompt(&self) -> &[u32] {
        &self.tokens[..self.num_prompt as usize]
    }
    pub fn output(&self) -> &[u32] {
        &self.tokens[self.num_prompt as usize..]
    }
    /// Hash and tokens of full block `index`. Blocks are asked for in order.
    pub fn hash_block(
        &mut self,
        index: usize,
        block_size: usize,
        root: BlockHash,
        hasher: &mut BlockHasher,
    ) -> (BlockHash, &[u32]) {
        let tokens = &self.tokens[index * block_size..][..block_size];
        if index == self.hashes.len() {
            self.hashes.push(hasher.chain(*self.hashes.last().unwrap_or(&root), tokens));
        }
        (self.hashes[index], tokens)
    }
}

#[derive(Default)]
pub(crate) struct Requests {
    pub requests: Slab<Request>,
    pub sequences: Slab<Sequence>,
    by_id: HashKeyed<RequestId, usize>,
}

impl Requests {
    pub fn contains(&self, id: RequestId) -> bool {
        self.by_id.contains_key(&id)
    }

    pub fn index_of(&self, id: RequestId) -> Option<usize> {
        self.by_id.get(&id).copied()
    }

    pub fn find(&self, id: RequestId) -> Option<&Request> {
        Some(&self.requests[self.index_of(id)?])
    }

    pub fn request_of(&self, key: SequenceKey) -> &Request {
        &self.requests[self.sequences[key].request]
    }

    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Adds a request with its first sequence, which stands for all choices.
    pub fn insert(&mut self, request: Request, sequence: impl FnOnce(usize) -> Sequence) -> SequenceKey {
        let id = request.id;
        let request = self.requests.insert(request);
        self.by_id.insert(id, request);
        self.attach(sequence(request))
    }

    /// Adds a choice to its request.
    pub fn attach(&mut self, sequence: Sequence) -> SequenceKey {
        let (request, choice) = (sequence.request, sequence.turn.choice);
        let key = self.sequences.insert(sequence);
        let request = &mut self.requests[request];
        request.choices[choice as usize] = Some(key);
        request.num_live += 1;
        key
    }

    /// Removes a sequence which holds nothing any more, and with the last one its request.
    pub fn remove(&mut self, key: SequenceKey) {
        let sequence = self.sequences.remove(key);
        debug_assert!(sequence.row.is_none() && sequence.table.len() == 0);
        let request = &mut self.requests[sequence.request];
        request.choices[sequence.turn.choice as usize] = None;
        request.num_live -= 1;
        if request.num_live == 0 {
            let id = request.id;
            self.requests.remove(sequence.request);
            self.by_id.remove(&id);
        }
    }
}
