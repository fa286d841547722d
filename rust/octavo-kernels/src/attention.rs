//! Causal attention over the paged cache.

use crate::{KernelError, KvCache};

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionOptions {
    /// Factor of the scores, commonly 1 / sqrt(head_dim).
    pub scale: f32,
    /// Keys that a query sees, its own included; 0 means all.
    pub sliding_window: usize,
    /// Scores become softcap · tanh(score / softcap); 0 means that they stay.
    pub softcap: f32,
}

impl KvCache {
    /// Writes key and value of the step's tokens into the cache, then attends from every query over its cached context.
    ///
    /// query, out [t, num_heads · head_dim]; key, value [t, num_kv_heads · head_dim]; t as in `begin_step`.
    pub fn attention(
        &mut self,
        layer: usize,
        query: &[f32],
        key: &[f32],
        value: &[f32],
        out: &mut [f32],
        options: AttentionOptions,
    ) -> Result<(), KernelError> {
        unimplemented!("{layer}{query:?}{key:?}{value:?}{out:?}{options:?}")
    }
}
