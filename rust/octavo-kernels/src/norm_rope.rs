//! Row-wise kernels between the matrix products: RMS norm, rotary embedding, SiLU.

use crate::{CpuKernels, KernelError};

impl CpuKernels {
    /// out[t] = x[t] / sqrt(mean(x[t]²) + eps) · weight, for rows of `weight.len()`.
    pub fn rms_norm(&self, x: &[f32], weight: &[f32], out: &mut [f32], eps: f32) -> Result<(), KernelError> {
        unimplemented!("{x:?}{weight:?}{out:?}{eps}")
    }

    /// `rms_norm` with `out` being `x`.
    pub fn rms_norm_in_place(&self, x: &mut [f32], weight: &[f32], eps: f32) -> Result<(), KernelError> {
        unimplemented!("{x:?}{weight:?}{eps}")
    }

    /// residual += x, then out = rms_norm(residual).
    pub fn add_rms_norm(
        &self,
        x: &[f32],
        residual: &mut [f32],
        weight: &[f32],
        out: &mut [f32],
        eps: f32,
    ) -> Result<(), KernelError> {
        unimplemented!("{x:?}{residual:?}{weight:?}{out:?}{eps}")
    }

    /// `add_rms_norm` with `out` being `x`.
    pub fn add_rms_norm_in_place(
        &self,
        x: &mut [f32],
        residual: &mut [f32],
        weight: &[f32],
        eps: f32,
    ) -> Result<(), KernelError> {
        unimplemented!("{x:?}{residual:?}{weight:?}{eps}")
    }

    /// Rotates the halves of each head of x[T, heads · head_dim] in place.
    ///
    /// cos_sin is [max_position, rotary_dim]: cosines in the first half of a row, sines in the second. Dimensions past
    /// rotary_dim stay. Errors: a position outside the table, rotary_dim odd or above head_dim.
    pub fn rope(
        &self,
        x: &mut [f32],
        positions: &[i32],
        cos_sin: &[f32],
        rotary_dim: usize,
        head_dim: usize,
    ) -> Result<(), KernelError> {
        unimplemented!("{x:?}{positions:?}{cos_sin:?}{rotary_dim}{head_dim}")
    }

    /// out[t, i] = silu(gate_up[t, i]) · gate_up[t, i + width] for gate_up[T, 2 · width] and out[T, width].
    pub fn silu_mul(&self, gate_up: &[f32], out: &mut [f32], width: usize) -> Result<(), KernelError> {
        unimplemented!("{gate_up:?}{out:?}{width}")
    }
}
