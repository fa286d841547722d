//! Online softmax: what is known of a row after some of its positions, and how two such states merge.

use crate::simd::{LANES, Simd};

use super::weigh::power_of_two;

/// Softmax states of some rows: the output's numerator, the largest score, the sum of the weights.
#[derive(Clone, Copy)]
pub(super) struct State {
    /// [rows, padded head_dim]
    pub(super) numerator: *mut f32,
    /// [rows], and room for whole vectors.
    pub(super) largest: *mut f32,
    pub(super) sum: *mut f32,
    rows: usize,
    pub(super) width: usize,
}

impl State {
    /// Floats that the states of `rows` rows take.
    pub(super) fn floats(rows: usize, width: usize) -> usize {
        rows * width + 2 * rows.next_multiple_of(LANES)
    }

    /// # Safety
    /// `floats(rows, width)` at `memory` are the caller's.
    pub(super) unsafe fn at(memory: *mut f32, rows: usize, width: usize) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            let largest = memory.add(rows * width);
            Self { numerator: memory, largest, sum: largest.add(rows.next_multiple_of(LANES)), rows, width }
        }
    }

    /// A row's numerator.
    #[inline(always)]
    pub(super) fn row(self, row: usize) -> *mut f32 {
        self.numerator.wrapping_add(row * self.width)
    }

    /// The rows from `first` on.
    #[inline(always)]
    pub(super) fn part(self, first: usize) -> Self {
        Self {
            numerator: self.row(first),
            largest: self.largest.wrapping_add(first),
            sum: self.sum.wrapping_add(first),
            rows: self.rows - first,
            width: self.width,
        }
    }

    /// Takes over the first rows of another state.
    #[inline(always)]
    pub(super) fn copy(self, from: State) {
        // SAFETY: `at`'s promise, for both.
        unsafe {
            std::ptr::copy_nonoverlapping(from.numerator, self.numerator, self.rows * self.width);
            std::ptr::copy_nonoverlapping(from.largest, self.largest, self.rows);
            std::ptr::copy_nonoverlapping(from.sum, self.sum, self.rows);
        }
    }

    /// Nothing seen.
    #[inline(always)]
    pub(super) fn reset<S: Simd>(self, simd: S) {
        // SAFETY: `at`'s promise.
        unsafe {
            for at in (0..self.rows * self.width).step_by(LANES) {
                simd.store(self.numerator.add(at), simd.splat(0.0));
            }
            for row in (0..self.rows).step_by(LANES) {
                simd.store(self.largest.add(row), simd.splat(f32::NEG_INFINITY));
                simd.store(self.sum.add(row), simd.splat(0.0));
            }
        }
    }

    /// Adds the state of later positions; a row of which nothing was seen takes it as it is.
    #[inline(always)]
    pub(super) fn merge<S: Simd>(self, simd: S, later: State) {
        let (mut keep, mut take) = ([0.0; LANES], [0.0; LANES]);
        for first in (0..self.rows).step_by(LANES) {
            // SAFETY: `at`'s promise, for both, and LANES floats in each array.
            unsafe {
                let (old, new) = (simd.load(self.largest.add(first)), simd.load(later.largest.add(first)));
                let largest = simd.max(new, old);
                simd.store(keep.as_mut_ptr(), power_of_two(simd, simd.sub(old, largest)));
                simd.store(take.as_mut_ptr(), power_of_two(simd, simd.sub(new, largest)));
                simd.store(self.largest.add(first), largest);
                for lane in 0..LANES.min(self.rows - first) {
                    let row = first + lane;
                    let (seen, more) = (*self.sum.add(row), *later.sum.add(row));
                    if more == 0.0 {
                        continue;
                    }
                    let (numerator, other) = (self.row(row), later.row(row));
                    if seen == 0.0 {
                        *self.sum.add(row) = more;
                        std::ptr::copy_nonoverlapping(other, numerator, self.width);
                        continue;
                    }
                    *self.sum.add(row) = seen * keep[lane] + more * take[lane];
                    let (keep, take) = (simd.splat(keep[lane]), simd.splat(take[lane]));
                    for at in (0..self.width).step_by(LANES) {
                        let numerator = numerator.add(at);
                        let other = simd.load(other.add(at));
                        let kept = simd.mul(simd.load(numerator), keep);
                        simd.store(numerator, simd.mul_add(other, take, kept));
                    }
                }
            }
        }
    }
}
