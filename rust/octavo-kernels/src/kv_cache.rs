//! The paged KV cache.

use std::sync::Arc;

use crate::{CpuKernels, KernelError};

/// The element type of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvType {
    F32,
    Bf16,
    F16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvCacheConfig {
    pub num_layers: usize,
    pub num_blocks: usize,
    /// Tokens in a block.
    pub block_size: usize,
    pub num_kv_heads: usize,
    /// A multiple of 8, at most 256.
    pub head_dim: usize,
    /// Rows of the block table.
    pub max_num_seqs: usize,
    /// Columns of the block table.
    pub max_blocks_per_seq: usize,
    pub dtype: KvType,
}

impl KvCacheConfig {
    /// Bytes that one block takes over all layers.
    pub fn block_bytes(&self) -> usize {
        unimplemented!()
    }
}

/// One step's index columns, as `Engine.arena_layout` names them.
#[derive(Debug, Clone, Copy, Default)]
pub struct StepMeta<'a> {
    /// [n] the row of the block table of each request.
    pub row: &'a [i32],
    /// [n + 1] request i owns the tokens query_start[i] to query_start[i + 1].
    pub query_start: &'a [i32],
    /// [n] tokens in the request's context after the step.
    pub seq_len: &'a [i32],
    /// [t] where each token's key and value go: block · block_size + offset.
    pub slot_mapping: &'a [i64],
    /// block_table[delta_row, delta_column] = delta_block, before the step.
    pub delta_row: &'a [i32],
    pub delta_column: &'a [i32],
    pub delta_block: &'a [i32],
    /// Whole blocks, copied over all layers before the step.
    pub copy_source: &'a [i32],
    pub copy_target: &'a [i32],
}

/// Keys and values of every layer in blocks, and the block tables that say whose they are.
pub struct KvCache {
    pub(crate) kernels: Arc<CpuKernels>,
    pub(crate) config: KvCacheConfig,
}

impl KvCache {
    /// Errors: `Config` for a size that is not supported, `Allocation`.
    pub fn new(kernels: Arc<CpuKernels>, config: KvCacheConfig) -> Result<Self, KernelError> {
        Ok(Self { kernels, config })
    }

    pub fn config(&self) -> &KvCacheConfig {
        &self.config
    }

    /// Applies the table deltas and block copies, and keeps the metadata for `attention`. Nothing changes on an error.
    pub fn begin_step(&mut self, meta: StepMeta<'_>) -> Result<(), KernelError> {
        unimplemented!("{meta:?}")
    }
}
