//! The kernels against plain definitions in float64, on every instruction set that the machine has.

mod common;

mod attention;
mod attention_shared;
mod decoder;
mod kv_cache;
mod linear;
mod linear_float;
mod norm_rope;
mod pool;
mod sample;
