//! The limits of one engine, checked once when it is made.

use crate::engine::EngineError;
use crate::pooling::PoolingLimits;
use crate::request::MOST_LOGPROBS;

/// The order in which requests run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// By arrival.
    #[default]
    Fcfs,
    /// By `Submission::priority`, smaller first, then by arrival.
    Priority,
}

/// How a GPU takes the attention of a step (cuda/attention.cuh). A unit is what one block of threads takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceWork {
    /// Query heads.
    pub num_heads: u32,
    pub num_kv_heads: u32,
    /// Rows of an item of prefill: pairs of a query token and a query head of a KV group.
    pub prefill_tile_rows: u32,
    /// Units of decode that run at once. An item has one for each KV head and 16 query heads of its group, or fewer.
    pub decode_units: u32,
    /// Units of prefill that run at once. An item has one for each KV head.
    pub prefill_units: u32,
}

/// Counts are of tokens, sequences or blocks, as the names say.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    pub num_blocks: u32,
    /// Tokens in a block.
    pub block_size: u32,
    /// Rows: sequences (choices) that run at once.
    pub max_num_seqs: u32,
    /// Tokens of one step.
    pub max_num_batched_tokens: u32,
    /// Prompt and output of one sequence.
    pub max_model_len: u32,
    pub vocab_size: u32,
    pub eos_token_ids: Vec<u32>,
    pub enable_prefix_caching: bool,
    /// Off: a prompt runs whole, in one step.
    pub enable_chunked_prefill: bool,
    pub policy: Policy,
    /// Requests that may wait; one more is refused. `None`: any number.
    pub max_num_queued_reqs: Option<u32>,
    /// Catching-up tokens of one sequence in one step, at most; 0: the fair share alone decides.
    pub long_prefill_token_threshold: u32,
    /// Log-probabilities that a request may ask for, of each token. The columns have room for 32 at most; longer lists
    /// come by `Engine::give_lists`.
    pub max_logprobs: u32,
    /// Sequences without a seed of their own draw from this one.
    pub seed: u64,
    /// A sequence that a step in flight samples may be planned for one more token, before the commit of that step. The
    /// token that is not known yet is -(row + 1) in `input_ids`: what was last sampled for this row.
    pub async_decode: bool,
    /// `Some`: the arena has the columns that a GPU needs, too.
    pub device_work: Option<DeviceWork>,
    /// `Some`: prompts are pooled, and nothing is generated.
    pub pooling: Option<PoolingLimits>,
}

/// Beams of one search: their candidates, two for each, are as many log-probabilities as a GPU gives for a sample.
const MAX_BEAM_WIDTH: u32 = 16;

impl EngineConfig {
    /// Beams of one search that this engine can run. In a smaller vocabulary their candidates would not be distinct.
    pub fn max_beam_width(&self) -> u32 {
        MAX_BEAM_WIDTH.min(self.max_num_seqs).min(self.vocab_size / 2)
    }

    /// Width of the `top_ids` and `top_logprobs` columns.
    pub fn logprobs_width(&self) -> u32 {
        self.max_logprobs.min(MOST_LOGPROBS).max(2 * self.max_beam_width())
    }

    /// Width of a block table.
    pub fn max_blocks_per_seq(&self) -> u32 {
        self.max_model_len.div_ceil(self.block_size)
    }

    /// `EngineError::Config` for limits which contradict each other.
    pub fn check(&self) -> Result<(), EngineError> {
        let positive = [
            ("num_blocks", self.num_blocks),
            ("block_size", self.block_size),
            ("max_num_seqs", self.max_num_seqs),
            ("max_num_batched_tokens", self.max_num_batched_tokens),
            ("max_model_len", self.max_model_len),
            ("vocab_size", self.vocab_size),
        ];
        for (name, value) in positive {
            if value == 0 || value > i32::MAX as u32 {
                return Err(EngineError::Config(format!("{name} must be between 1 and 2147483647, not {value}")));
            }
        }
        if self.max_num_batched_tokens < self.max_num_seqs {
            return Err(EngineError::Config(format!(
                "max_num_batched_tokens ({}) must be at least max_num_seqs ({}): each running sequence takes a token a step",
                self.max_num_batched_tokens, self.max_num_seqs
            )));
        }
        if !self.enable_chunked_prefill && self.max_num_batched_tokens < self.max_model_len {
            return Err(EngineError::Config(format!(
                "without chunked prefill max_num_batched_tokens ({}) must be at least max_model_len ({})",
                self.max_num_batched_tokens, self.max_model_len
            )));
        }
        if u64::from(self.num_blocks) * u64::from(self.block_size) > u64::from(u32::MAX) {
            return Err(EngineError::Config("the KV cache has too many token slots".into()));
        }
        if let Some(work) = &self.device_work {
            work.check()?;
        }
        Ok(())
    }
}

impl DeviceWork {
    /// `EngineError::Config` for what no GPU has.
    pub fn check(&self) -> Result<(), EngineError> {
        let positive = [
            ("num_heads", self.num_heads),
            ("num_kv_heads", self.num_kv_heads),
            ("prefill_tile_rows", self.prefill_tile_rows),
            ("decode_units", self.decode_units),
            ("prefill_units", self.prefill_units),
        ];
        for (name, value) in positive {
            if value == 0 || value > u32::from(u16::MAX) {
                return Err(EngineError::Config(format!("{name} must be between 1 and 65535, not {value}")));
            }
        }
        if !self.num_heads.is_multiple_of(self.num_kv_heads) {
            return Err(EngineError::Config(format!(
                "num_heads ({}) must be a multiple of num_kv_heads ({})",
                self.num_heads, self.num_kv_heads
            )));
        }
        Ok(())
    }
}
