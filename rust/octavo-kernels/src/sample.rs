//! Logits to tokens.

use crate::{CpuKernels, KernelError};

/// How one row of logits becomes a token. Token ids outside the vocabulary are without effect.
#[derive(Debug, Clone, Copy)]
pub struct SampleRow<'a> {
    /// Below 1e-5: the most probable token.
    pub temperature: f32,
    /// 0: off.
    pub top_k: u32,
    /// 1: off.
    pub top_p: f32,
    /// 0: off.
    pub min_p: f32,
    pub presence_penalty: f32,
    pub frequency_penalty: f32,
    /// 1: off.
    pub repetition_penalty: f32,
    pub prompt: &'a [u32],
    pub output: &'a [u32],
    pub seed: u64,
    /// Which of a request's n answers.
    pub choice: u32,
    /// How many tokens the answer has already.
    pub step: u64,
    pub banned: &'a [u32],
    pub logit_bias: &'a [(u32, f32)],
    /// Some(n): give the token's log-probability and rank, and the n best tokens.
    pub num_logprobs: Option<u32>,
}

/// The output columns of a step, one element a row; the two `top_` columns have `max_logprobs` elements a row.
pub struct SampleOutput<'a> {
    /// -1 where no token could be chosen.
    pub sampled: &'a mut [i32],
    /// Log-softmax of the raw logits; 0 when the row did not ask.
    pub logprob: &'a mut [f32],
    /// 1 for the most probable token of the raw logits; 0 when the row did not ask.
    pub rank: &'a mut [i32],
    /// The best tokens, best first; written up to the number that the row asked for, -1 after it.
    pub top_ids: &'a mut [i32],
    pub top_logprobs: &'a mut [f32],
    pub max_logprobs: usize,
}

impl CpuKernels {
    /// Chooses one token for each row of logits[rows, vocab_size], which is overwritten.
    pub fn sample(
        &self,
        logits: &mut [f32],
        vocab_size: usize,
        rows: &[SampleRow<'_>],
        out: SampleOutput<'_>,
    ) -> Result<(), KernelError> {
        unimplemented!("{logits:?}{vocab_size}{rows:?}{}", out.max_logprobs)
    }
}
