//! SIMD kernels on slices for a plain CPU: paged attention, norms, rotary embedding, sampling.

pub mod dispatch;
pub mod error;
pub mod pool;

mod matrix;
mod simd;

pub mod norm_rope;

pub mod kv_cache;

pub mod attention;

pub mod sample;

pub use attention::AttentionOptions;
pub use dispatch::{CpuKernels, Isa};
pub use error::KernelError;
pub use kv_cache::{KvCache, KvCacheConfig, KvType, StepMeta};
pub use pool::Pool;
pub use sample::{SampleOutput, SampleRow};
