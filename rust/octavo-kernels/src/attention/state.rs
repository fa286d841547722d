//! Online softmax: what is known of a row after some of its positions, and how two such states merge.

use crate::simd::{LANES, Simd};

/// Softmax states of some rows: the output's numerator, the largest score, the sum of the exponentials.
#[derive(Clone, Copy)]
pub(super) struct State {
    /// [rows, padded head_dim]
    pub(super) numerator: *mut f32,
    pub(super) largest: *mut f32,
    pub(super) sum: *mut f32,
    rows: usize,
    pub(super) width: usize,
}

impl State {
    /// # Safety
    /// `rows · (width + 2)` floats at `memory` are the caller's.
    pub(super) unsafe fn at(memory: *mut f32, rows: usize, width: usize) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            Self {
                numerator: memory,
                largest: memory.add(rows * width),
                sum: memory.add(rows * (width + 1)),
                rows,
                width,
            }
        }
    }

    pub(super) fn reset(self) {
        // SAFETY: `at`'s promise.
        unsafe {
            std::slice::from_raw_parts_mut(self.numerator, self.rows * self.width).fill(0.0);
            std::slice::from_raw_parts_mut(self.largest, self.rows).fill(f32::NEG_INFINITY);
            std::slice::from_raw_parts_mut(self.sum, self.rows).fill(0.0);
        }
    }

    /// Multiplies a row's numerator.
    #[inline(always)]
    pub(super) fn scale<S: Simd>(self, simd: S, row: usize, factor: f32) {
        let factor = simd.splat(factor);
        for at in (0..self.width).step_by(LANES) {
            // SAFETY: `at`'s promise; the width is a multiple of 16.
            unsafe {
                let numerator = self.numerator.add(row * self.width + at);
                simd.store(numerator, simd.mul(simd.load(numerator), factor));
            }
        }
    }

    /// Adds the state of later positions.
    #[inline(always)]
    pub(super) fn merge<S: Simd>(self, simd: S, later: State) {
        for row in 0..self.rows {
            // SAFETY: `at`'s promise, for both.
            unsafe {
                let (old, new) = (*self.largest.add(row), *later.largest.add(row));
                let seen = *later.sum.add(row) != 0.0;
                if !seen {
                    continue;
                }
                let largest = if new > old { new } else { old };
                let (keep, take) = ((old - largest).exp(), (new - largest).exp());
                *self.largest.add(row) = largest;
                *self.sum.add(row) = *self.sum.add(row) * keep + *later.sum.add(row) * take;
                self.scale(simd, row, keep);
                let take = simd.splat(take);
                for at in (0..self.width).step_by(LANES) {
                    let numerator = self.numerator.add(row * self.width + at);
                    let other = simd.load(later.numerator.add(row * self.width + at));
                    simd.store(numerator, simd.mul_add(other, take, simd.load(numerator)));
                }
            }
        }
    }
}
