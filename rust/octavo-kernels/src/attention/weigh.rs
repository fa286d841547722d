//! From the scores of a split to softmax weights.
//!
//! Scores are in units of the binary logarithm: log2(e) is part of the factor that queries have been multiplied by, or
//! that the soft cap multiplies by, and so no exponential multiplies by it. First all rows find their largest score, then
//! all take their weights: between the two lies a reduction over lanes, for which no row waits.

use crate::kv_cache::KvElement;
use crate::simd::{Kernel, LANES, Simd};

use super::split::{SPLIT, Split};
use super::state::State;

/// Floats from a row of scores to the next. A vector beyond a split, since rows at whole kilobytes would share a few sets
/// of the first-level cache.
pub(super) const SCORES: usize = SPLIT + LANES;

/// Turns scores into weights relative to the row's largest, and notes that one and the weights' sum.
pub(super) struct Weigh<'a, E> {
    pub(super) split: &'a Split<E>,
    /// 0, or what caps the scores before log2(e) multiplies them.
    pub(super) softcap: f32,
    /// The positions that each row sees.
    pub(super) visible: &'a [(usize, usize)],
    /// [rows, SCORES]
    pub(super) scores: *mut f32,
    pub(super) state: State,
}

impl<E: KvElement> Kernel for Weigh<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for (row, &(from, to)) in self.visible.iter().enumerate() {
            if from < to {
                self.compare(simd, row, from, to);
            }
        }
        for (row, &(from, to)) in self.visible.iter().enumerate() {
            if from < to {
                self.weigh(simd, row, from, to);
            }
        }
    }
}

/// The smaller one of a score and this keeps some lanes, or makes them -infinity: 16 of the latter, 16 of the former, and
/// again.
static BOUNDS: [f32; 3 * LANES] = {
    let mut bounds = [f32::NEG_INFINITY; 3 * LANES];
    let mut lane = LANES;
    while lane < 2 * LANES {
        bounds[lane] = f32::INFINITY;
        lane += 1;
    }
    bounds
};

impl<E: KvElement> Weigh<'_, E> {
    /// Scores as they count, those of hidden positions -infinity, and the largest.
    #[inline(always)]
    fn compare<S: Simd>(&self, simd: S, row: usize, from: usize, to: usize) {
        let scores = self.scores.wrapping_add(row * SCORES);
        let (first, last) = (from / LANES, (to - 1) / LANES);
        let mut largest = simd.splat(f32::NEG_INFINITY);
        // SAFETY: there are SPLIT scores, and scales for each strip; the bounds begin 1 to 32 floats into their 48;
        // `state` has the row.
        unsafe {
            if E::SCALED || self.softcap > 0.0 {
                self.scale(simd, scores, first..last + 1);
            }
            if !from.is_multiple_of(LANES) {
                let bound = simd.load(BOUNDS.as_ptr().add(LANES - from % LANES));
                let at = scores.add(first * LANES);
                simd.store(at, simd.min(simd.load(at), bound));
            }
            for strip in first..last {
                largest = simd.max(simd.load(scores.add(strip * LANES)), largest);
            }
            let bound = simd.load(BOUNDS.as_ptr().add(2 * LANES - (to - last * LANES)));
            let at = scores.add(last * LANES);
            let bounded = simd.min(simd.load(at), bound);
            simd.store(at, bounded);
            *self.state.largest.add(row) = simd.largest(simd.max(bounded, largest));
        }
    }

    /// # Safety
    /// There are scores and scales for each strip.
    #[inline(always)]
    unsafe fn scale<S: Simd>(&self, simd: S, scores: *mut f32, strips: std::ops::Range<usize>) {
        let cap = simd.splat(self.softcap * std::f32::consts::LOG2_E);
        let inverse = simd.splat(1.0 / self.softcap);
        for strip in strips {
            // SAFETY: the caller's promise.
            unsafe {
                let mut score = simd.load(scores.add(strip * LANES));
                if E::SCALED {
                    score = simd.mul(score, simd.load(self.split.strip(strip).key_scales));
                }
                if self.softcap > 0.0 {
                    score = simd.mul(cap, simd.tanh(simd.mul(score, inverse)));
                }
                simd.store(scores.add(strip * LANES), score);
            }
        }
    }

    #[inline(always)]
    fn weigh<S: Simd>(&self, simd: S, row: usize, from: usize, to: usize) {
        let scores = self.scores.wrapping_add(row * SCORES);
        let mut sum = simd.splat(0.0);
        // SAFETY: as in `compare`.
        unsafe {
            let largest = simd.splat(*self.state.largest.add(row));
            for strip in from / LANES..to.div_ceil(LANES) {
                let mut weight = power_of_two(simd, simd.sub(simd.load(scores.add(strip * LANES)), largest));
                sum = simd.add(sum, weight);
                if E::SCALED {
                    weight = simd.mul(weight, simd.load(self.split.strip(strip).value_scales));
                }
                simd.store(scores.add(strip * LANES), weight);
            }
            *self.state.sum.add(row) = simd.sum(sum);
        }
    }
}

/// 2 to the x, for x of at most 0, to a unit in the last place; 0 below -126. Exactly 1 for 0.
///
/// The polynomial goes through (2^x - 1) / x at the Chebyshev nodes between -1/2 and 1/2.
#[inline(always)]
pub(super) fn power_of_two<S: Simd>(simd: S, x: S::Vector) -> S::Vector {
    let lowest = simd.splat(-126.0);
    let clamped = simd.max(lowest, x);
    let exponent = simd.round(clamped);
    let rest = simd.sub(clamped, exponent);
    let mut polynomial = simd.splat(1.545_316_3e-4);
    for coefficient in [1.339_086_3e-3_f32, 9.618_083e-3, 5.550_357e-2, 2.402_265e-1, std::f32::consts::LN_2, 1.0] {
        polynomial = simd.mul_add(polynomial, rest, simd.splat(coefficient));
    }
    simd.zero_below(x, lowest, simd.mul(polynomial, simd.power_of_two(exponent)))
}
