//! Row-wise kernels between the matrix products: RMS norm, rotary embedding, SiLU.
//!
//! Each is a kernel on one row in place; the methods share out the rows. A row that must not be overwritten is copied
//! first, which costs little, as a row fits in the first-level cache.

use crate::error::check_length;
use crate::linear::{Activations, load_block};
use crate::pool::Rows;
use crate::simd::{Kernel, LANES, Simd, load_slice, store_slice};
use crate::{CpuKernels, KernelError};

/// Elements that are worth waking a thread for: some microseconds of work.
const GRAIN: usize = 16 * 1024;

impl CpuKernels {
    /// out[t] = x[t] / sqrt(mean(x[t]²) + eps) · weight, for rows of `weight.len()`.
    pub fn rms_norm(&self, x: &[f32], weight: &[f32], out: &mut [f32], eps: f32) -> Result<(), KernelError> {
        check_rows("x", x.len(), weight.len())?;
        check_length("out", out.len(), x.len())?;
        self.normalise(Some(x), out, None, weight, eps);
        Ok(())
    }

    /// `rms_norm` with `out` being `x`.
    pub fn rms_norm_in_place(&self, x: &mut [f32], weight: &[f32], eps: f32) -> Result<(), KernelError> {
        check_rows("x", x.len(), weight.len())?;
        self.normalise(None, x, None, weight, eps);
        Ok(())
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
        check_rows("x", x.len(), weight.len())?;
        check_length("residual", residual.len(), x.len())?;
        check_length("out", out.len(), x.len())?;
        self.normalise(Some(x), out, Some(residual), weight, eps);
        Ok(())
    }

    /// `add_rms_norm` with `out` being `x`.
    pub fn add_rms_norm_in_place(
        &self,
        x: &mut [f32],
        residual: &mut [f32],
        weight: &[f32],
        eps: f32,
    ) -> Result<(), KernelError> {
        check_rows("x", x.len(), weight.len())?;
        check_length("residual", residual.len(), x.len())?;
        self.normalise(None, x, Some(residual), weight, eps);
        Ok(())
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
        if rotary_dim == 0 || !rotary_dim.is_multiple_of(2) || rotary_dim > head_dim {
            let text = format!("rotary_dim is {rotary_dim}: it must be even and at most head_dim, {head_dim}");
            return Err(KernelError::Config(text));
        }
        check_rows("cos_sin", cos_sin.len(), rotary_dim)?;
        check_rows("x", x.len(), positions.len() * head_dim)?;
        let limit = cos_sin.len() / rotary_dim;
        for (at, &position) in positions.iter().enumerate() {
            if usize::try_from(position).map_or(true, |position| position >= limit) {
                let (value, limit) = (i64::from(position), limit as i64);
                return Err(KernelError::Index { name: "positions", at, value, limit });
            }
        }
        let row_len = x.len().checked_div(positions.len()).unwrap_or(0);
        let tokens = Rows::new(x, row_len);
        self.pool.for_each_range(tokens.count(), GRAIN / row_len.max(1), |range| {
            for token in range {
                // SAFETY: the ranges do not overlap.
                let heads = unsafe { tokens.row(token) };
                let angles = &cos_sin[positions[token] as usize * rotary_dim..][..rotary_dim];
                self.run(Rope { heads, head_dim, angles });
            }
        });
        Ok(())
    }

    /// out[t, i] = silu(gate_up[t, i]) · gate_up[t, i + width] for gate_up[T, 2 · width] and out[T, width].
    pub fn silu_mul(&self, gate_up: &[f32], out: &mut [f32], width: usize) -> Result<(), KernelError> {
        check_rows("out", out.len(), width)?;
        check_length("gate_up", gate_up.len(), 2 * out.len())?;
        let out = Rows::new(out, width);
        self.pool.for_each_range(out.count(), GRAIN / 2 / width.max(1), |range| {
            for row in range {
                let (gate, up) = gate_up[row * 2 * width..][..2 * width].split_at(width);
                // SAFETY: the ranges do not overlap.
                let out = unsafe { out.row(row) };
                self.run(SiluMul { gate, up, out });
            }
        });
        Ok(())
    }

    /// Row `row` of `out` = rms_norm(x), on the calling thread.
    ///
    /// # Safety
    /// Nobody else has this row.
    pub(crate) unsafe fn rms_norm_row(&self, x: &[f32], weight: &[f32], eps: f32, out: &Activations, row: usize) {
        assert!(x.len() == weight.len() && x.len() == out.columns());
        self.run(RmsNormInto { x, weight, eps, out, row });
    }

    /// Norms the rows of `out`, after copying `x` there if given, and adding it to `residual` if given.
    fn normalise(&self, x: Option<&[f32]>, out: &mut [f32], residual: Option<&mut [f32]>, weight: &[f32], eps: f32) {
        let width = weight.len();
        let out = Rows::new(out, width);
        let residual = residual.map(|residual| Rows::new(residual, width));
        self.pool.for_each_range(out.count(), GRAIN / width.max(1), |range| {
            for row in range {
                // SAFETY: the ranges do not overlap.
                let out = unsafe { out.row(row) };
                if let Some(x) = x {
                    out.copy_from_slice(&x[row * width..][..width]);
                }
                if let Some(residual) = &residual {
                    // SAFETY: the ranges do not overlap.
                    let residual = unsafe { residual.row(row) };
                    self.run(AddTo { sum: residual, other: out });
                }
                self.run(RmsNorm { x: out, weight, eps });
            }
        });
    }
}

fn check_rows(name: &'static str, length: usize, row_len: usize) -> Result<(), KernelError> {
    match length.checked_rem(row_len) {
        Some(0) => Ok(()),
        None if length == 0 => Ok(()),
        _ => Err(KernelError::Config(format!("{name} has {length} elements, not a multiple of {row_len}"))),
    }
}

pub(crate) struct RmsNorm<'a> {
    pub(crate) x: &'a mut [f32],
    pub(crate) weight: &'a [f32],
    pub(crate) eps: f32,
}

impl Kernel for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let width = self.x.len();
        let factor = simd.splat(norm_factor(simd, self.x, self.eps));
        for at in (0..width).step_by(LANES) {
            let x = simd.mul(load_slice(simd, self.x, at), factor);
            store_slice(simd, self.x, at, simd.mul(x, load_slice(simd, self.weight, at)));
        }
    }
}

/// `RmsNorm` for the products that follow.
struct RmsNormInto<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a Activations,
    row: usize,
}

impl Kernel for RmsNormInto<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let factor = simd.splat(norm_factor(simd, self.x, self.eps));
        for block in 0..self.out.blocks() {
            let (x, weight) = (load_block(simd, self.x, block), load_block(simd, self.weight, block));
            let first = simd.mul(simd.mul(x[0], factor), weight[0]);
            let second = simd.mul(simd.mul(x[1], factor), weight[1]);
            // SAFETY: the promise of `rms_norm_row`'s caller.
            unsafe { self.out.write(simd, self.row, block, [first, second]) };
        }
    }
}

/// 1 / sqrt(mean(x²) + eps)
#[inline(always)]
fn norm_factor<S: Simd>(simd: S, x: &[f32], eps: f32) -> f32 {
    let width = x.len();
    // Four sums hide the latency of the addition.
    let mut squares = [simd.splat(0.0); 4];
    for begin in (0..width).step_by(4 * LANES) {
        for (index, sum) in squares.iter_mut().enumerate() {
            let at = begin + index * LANES;
            if at < width {
                let x = load_slice(simd, x, at);
                *sum = simd.mul_add(x, x, *sum);
            }
        }
    }
    let total = simd.sum(simd.add(simd.add(squares[0], squares[1]), simd.add(squares[2], squares[3])));
    1.0 / (total / width as f32 + eps).sqrt()
}

/// sum += other, and other = sum.
struct AddTo<'a> {
    sum: &'a mut [f32],
    other: &'a mut [f32],
}

impl Kernel for AddTo<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for at in (0..self.sum.len()).step_by(LANES) {
            let sum = simd.add(load_slice(simd, self.sum, at), load_slice(simd, self.other, at));
            store_slice(simd, self.sum, at, sum);
            store_slice(simd, self.other, at, sum);
        }
    }
}

pub(crate) struct Rope<'a> {
    /// One token's heads.
    pub(crate) heads: &'a mut [f32],
    pub(crate) head_dim: usize,
    /// rotary_dim / 2 cosines, then as many sines.
    pub(crate) angles: &'a [f32],
}

impl Kernel for Rope<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let half = self.angles.len() / 2;
        let (cosines, sines) = self.angles.split_at(half);
        for at in (0..half).step_by(LANES) {
            let (cosine, sine) = (load_slice(simd, cosines, at), load_slice(simd, sines, at));
            let minus_sine = simd.sub(simd.splat(0.0), sine);
            for head in self.heads.chunks_exact_mut(self.head_dim) {
                let (first, second) = head[..2 * half].split_at_mut(half);
                if half - at >= LANES {
                    let (first, second) = (&mut first[at..at + LANES], &mut second[at..at + LANES]);
                    // SAFETY: 16 floats each.
                    unsafe {
                        let (x, y) = (simd.load(first.as_ptr()), simd.load(second.as_ptr()));
                        simd.store(first.as_mut_ptr(), simd.mul_add(y, minus_sine, simd.mul(x, cosine)));
                        simd.store(second.as_mut_ptr(), simd.mul_add(x, sine, simd.mul(y, cosine)));
                    }
                } else {
                    let (x, y) = (load_slice(simd, first, at), load_slice(simd, second, at));
                    store_slice(simd, first, at, simd.mul_add(y, minus_sine, simd.mul(x, cosine)));
                    store_slice(simd, second, at, simd.mul_add(x, sine, simd.mul(y, cosine)));
                }
            }
        }
    }
}

struct SiluMul<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for SiluMul<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for at in (0..self.out.len()).step_by(LANES) {
            let gate = load_slice(simd, self.gate, at);
            let activated = simd.mul(gate, simd.sigmoid(gate));
            store_slice(simd, self.out, at, simd.mul(activated, load_slice(simd, self.up, at)));
        }
    }
}
