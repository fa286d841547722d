//! A planned step.

/// One step, as scalars. The columns lie in arena number `arena`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Counts from 1; names the step to `commit`, `fail` and `sampling`.
    pub epoch: u64,
    pub arena: usize,
    pub num_reqs: u32,
    pub num_tokens: u32,
    pub num_samples: u32,
    pub max_query_len: u32,
    pub max_context_len: u32,
    pub num_table_deltas: u32,
    pub num_block_copies: u32,
}

/// What the sampler needs for one sample of a step.
#[derive(Clone, Copy, Debug)]
pub struct SampleRow<'a> {
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
    /// The tokens generated so far.
    pub output: &'a [u32],
    /// The request's seed, or one drawn from the engine's seed and the request's number.
    pub seed: u64,
    pub choice: u32,
    /// Index in `output` of the token to be sampled. Seed, choice and step together name the random draw.
    pub step: u64,
    /// Tokens which cannot be chosen: stop and end-of-sequence tokens before `min_tokens`.
    pub banned: &'a [u32],
    /// Sorted by token.
    pub logit_bias: &'a [(u32, f32)],
    pub num_logprobs: Option<u32>,
}
