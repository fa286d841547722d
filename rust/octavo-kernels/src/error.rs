//! What a caller can do wrong, and what the machine can refuse.

use crate::Isa;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// The instruction set was forced, and this machine lacks it.
    #[error("this machine has no {0}")]
    MissingIsa(Isa),
    #[error("unknown instruction set {0:?} (known: amx, avx512_bf16, avx512, avx2, neon_dot, neon, portable)")]
    UnknownIsa(String),
    /// A size is zero, or not one that the kernels support.
    #[error("{0}")]
    Config(String),
    /// A slice's length does not fit its neighbours.
    #[error("{name} has {actual} elements, expected {expected}")]
    Length { name: &'static str, actual: usize, expected: usize },
    /// An index column holds a value outside its range `0..limit`.
    #[error("{name}[{at}] is {value}, outside 0..{limit}")]
    Index { name: &'static str, at: usize, value: i64, limit: i64 },
    #[error("cannot allocate {bytes} bytes for the KV cache: {reason}")]
    Allocation { bytes: u64, reason: String },
    #[error("cannot allocate {bytes} bytes for weights")]
    OutOfMemory { bytes: usize },
    /// These rows hold no token that may be chosen: every logit is NaN, banned or minus infinity. The other rows are done.
    #[error("no token can be sampled for rows {rows:?}: every logit is NaN or minus infinity")]
    NoToken { rows: Vec<usize> },
}

pub(crate) fn check_length(name: &'static str, actual: usize, expected: usize) -> Result<(), KernelError> {
    if actual == expected { Ok(()) } else { Err(KernelError::Length { name, actual, expected }) }
}
