//! SIMD kernels on slices for a plain CPU: paged attention, norms, rotary embedding, sampling.
//!
//! No Python and no model here: slices in, slices out, lengths and indices checked once at the public functions. The
//! modules in the order in which a step meets them:
//! - `dispatch`: which instruction set runs; `CpuKernels` joins it with the threads of `pool`;
//! - `linear`: weights, packed, and the matrix products with them;
//! - `norm_rope`: the row-wise kernels between the matrix products;
//! - `kv_cache`: the paged memory, the block tables, and a step's metadata;
//! - `attention`: over that cache;
//! - `loading`: a model's parameters by name; `pooling`: from hidden states to vectors and labels;
//! - `decoder`: a whole model over all of them, a step in one call;
//! - `encoder`: the same for a bidirectional model, without a cache;
//! - `sample`: logits to tokens.
//!
//! `simd` is what the kernels are written in, once for all instruction sets.

mod dispatch;
mod error;
mod pool;

mod simd;

mod linear;

mod norm_rope;

mod kv_cache;

mod attention;

mod loading;

mod pooling;

mod decoder;

mod encoder;

mod sample;

pub use attention::AttentionOptions;
pub use decoder::{Decoder, DecoderConfig, PartTimes, StepPart};
pub use dispatch::{CpuKernels, Isa};
pub use encoder::{Encoder, EncoderConfig};
pub use error::KernelError;
pub use kv_cache::{KvCache, KvCacheConfig, KvType, StepMeta};
pub use linear::{Activations, Contents, Encoding, Format, Linear, Stored};
pub use pool::{Pool, Team};
pub use pooling::{Hidden, LabelActivation, PoolKind, PoolTask, PoolerConfig};
pub use sample::{LogprobList, SampleOutput, SampleRow};
