//! Row-wise kernels between the products: layer norm and GELU, in place.

use super::weights::Norm;
use crate::linear::{Activations, load_block};
use crate::simd::{Kernel, LANES, Simd, load_slice, store_slice};

/// A row becomes (x - mean) / sqrt(variance + eps) · weight + bias, in whatever the products read.
pub(super) struct LayerNorm<'a> {
    pub(super) rows: &'a Activations,
    pub(super) row: usize,
    norm: &'a Norm,
    eps: f32,
}

impl<'a> LayerNorm<'a> {
    /// # Safety
    /// Nobody else has this row until the kernel has run.
    pub(super) unsafe fn new(rows: &'a Activations, row: usize, norm: &'a Norm, eps: f32) -> Self {
        assert!(norm.weight.len() == rows.columns() && row < rows.max_rows() && rows.contents().has_floats());
        Self { rows, row, norm, eps }
    }
}

impl Kernel for LayerNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let columns = self.rows.columns();
        // SAFETY: the promise of `new`'s caller.
        let row = unsafe { self.rows.row(self.row).cast_const() };
        // SAFETY: a row has `columns` floats; the borrow ends before the row is written.
        let x = unsafe { std::slice::from_raw_parts(row, columns) };
        let mean = sum(simd, x, None) / columns as f32;
        let variance = sum(simd, x, Some(mean)) / columns as f32;
        let factor = simd.splat(1.0 / (variance + self.eps).sqrt());
        let mean = simd.splat(mean);
        for block in 0..self.rows.blocks() {
            // SAFETY: rows have room for whole blocks; the caller's promise.
            unsafe {
                let from = row.add(block * 2 * LANES);
                let x = [simd.load(from), simd.load(from.add(LANES))];
                // Past the columns both are 0, and so is the result.
                let (weight, bias) =
                    (load_block(simd, &self.norm.weight, block), load_block(simd, &self.norm.bias, block));
                let first = simd.mul_add(simd.mul(simd.sub(x[0], mean), factor), weight[0], bias[0]);
                let second = simd.mul_add(simd.mul(simd.sub(x[1], mean), factor), weight[1], bias[1]);
                self.rows.write(simd, self.row, block, [first, second]);
            }
        }
    }
}

/// The sum of x, or of (x - mean)².
#[inline(always)]
fn sum<S: Simd>(simd: S, x: &[f32], mean: Option<f32>) -> f32 {
    // Four sums hide the latency of the addition.
    let mut sums = [simd.splat(0.0); 4];
    let whole = x.len() / LANES * LANES;
    for begin in (0..whole).step_by(4 * LANES) {
        for (index, sum) in sums.iter_mut().enumerate() {
            let at = begin + index * LANES;
            if at < whole {
                let x = load_slice(simd, x, at);
                *sum = match mean {
                    None => simd.add(*sum, x),
                    Some(mean) => {
                        let distance = simd.sub(x, simd.splat(mean));
                        simd.mul_add(distance, distance, *sum)
                    }
                };
            }
        }
    }
    let mut total = simd.sum(simd.add(simd.add(sums[0], sums[1]), simd.add(sums[2], sums[3])));
    for &x in &x[whole..] {
        total += mean.map_or(x, |mean| (x - mean) * (x - mean));
    }
    total
}

/// x becomes x · Φ(x), with Φ the normal distribution's.
pub(super) struct Gelu<'a>(pub(super) &'a mut [f32]);

impl Kernel for Gelu<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for at in (0..self.0.len()).step_by(LANES) {
            let x = load_slice(simd, self.0, at);
            let result = gelu(simd, x);
            store_slice(simd, self.0, at, result);
        }
    }
}

/// Φ(-|x|) is half of erfc(|x| / √2), by formula 7.1.26 of Abramowitz and Stegun: at most 1.5e-7 off.
#[inline(always)]
fn gelu<S: Simd>(simd: S, x: S::Vector) -> S::Vector {
    let z = simd.mul(simd.abs(x), simd.splat(std::f32::consts::FRAC_1_SQRT_2));
    let one = simd.splat(1.0);
    let t = simd.div(one, simd.mul_add(z, simd.splat(0.327_591_1), one));
    let mut polynomial = simd.splat(1.061_405_4);
    for coefficient in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6_f32] {
        polynomial = simd.mul_add(polynomial, t, simd.splat(coefficient));
    }
    let minus_square = simd.mul(z, simd.sub(simd.splat(0.0), z));
    let tail = simd.mul(simd.mul(simd.mul(polynomial, t), simd.splat(0.5)), simd.exp(minus_square));
    // The tail for negative x, and 1 - tail for others.
    let rest = simd.sub(one, simd.add(tail, tail));
    simd.mul(x, simd.add(tail, simd.zero_below(x, simd.splat(0.0), rest)))
}
