//! The products of up to six query rows over one split: scores from K, and the sum of V by weights.
//!
//! Every element is summed by one lane, a score in the order of the head's dimensions and an output in that of the
//! positions; so its bits do not depend on how rows and strips are grouped into register tiles. While a strip of pages is
//! read, a later one is fetched: the pages of a context lie scattered, and no hardware foresees the next.

use crate::kv_cache::KvElement;
use crate::simd::{Kernel, LANES, Simd, prefetch};

use super::split::Split;
use super::weigh::SCORES;

/// Rows that a kernel takes at most.
pub(super) const MAX_ROWS: usize = 6;

pub(super) const CACHE_LINE: usize = 64;

/// scores[row, position] = query[row] · K[position], for all strips of the split.
///
/// AHEAD says whether to fetch later strips: not where `split` is widened.
pub(super) struct Scores<'a, E, const AHEAD: bool> {
    pub(super) split: &'a Split<E>,
    pub(super) rows: usize,
    /// [rows, head_dim]
    pub(super) query: *const f32,
    /// [rows, SCORES]
    pub(super) scores: *mut f32,
}

impl<E: KvElement, const AHEAD: bool> Kernel for Scores<'_, E, AHEAD> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match self.rows {
            1 => self.all_strips::<S, 1>(simd),
            2 => self.all_strips::<S, 2>(simd),
            3 => self.all_strips::<S, 3>(simd),
            4 => self.all_strips::<S, 4>(simd),
            5 => self.all_strips::<S, 5>(simd),
            _ => self.all_strips::<S, MAX_ROWS>(simd),
        }
    }
}

impl<E: KvElement, const AHEAD: bool> Scores<'_, E, AHEAD> {
    #[inline(always)]
    fn all_strips<S: Simd, const R: usize>(&self, simd: S) {
        let together = S::ACCUMULATORS / R;
        let mut strip = self.split.first;
        while strip < self.split.last {
            let left = self.split.last - strip;
            if together >= 4 && left >= 4 {
                self.tile::<S, R, 4>(simd, strip);
                strip += 4;
            } else if together >= 3 && left >= 3 {
                self.tile::<S, R, 3>(simd, strip);
                strip += 3;
            } else if together >= 2 && left >= 2 {
                self.tile::<S, R, 2>(simd, strip);
                strip += 2;
            } else {
                self.tile::<S, R, 1>(simd, strip);
                strip += 1;
            }
        }
    }

    #[expect(clippy::needless_range_loop, reason = "constant bounds on arrays that become registers")]
    #[inline(always)]
    fn tile<S: Simd, const R: usize, const N: usize>(&self, simd: S, strip: usize) {
        // A row of K in a strip is a quarter, half or whole cache line.
        let rows_of_line = CACHE_LINE / LANES / size_of::<E>();
        let (head_dim, stride) = (self.split.head_dim, self.split.key_stride);
        let mut sums = [[simd.splat(0.0); N]; R];
        let mut keys = [std::ptr::null(); N];
        let mut ahead = [std::ptr::null(); N];
        for n in 0..N {
            keys[n] = self.split.strip(strip + n).keys;
            if AHEAD {
                ahead[n] = self.split.after_keys(strip + n);
            }
        }
        for begin in (0..head_dim).step_by(rows_of_line) {
            for part in 0..rows_of_line {
                let dimension = begin + part;
                let mut columns = [simd.splat(0.0); N];
                for n in 0..N {
                    // SAFETY: K of the strip has head_dim rows, a multiple of 8.
                    columns[n] = unsafe { E::load(simd, keys[n].add(dimension * stride)) };
                    if AHEAD && n % rows_of_line == part {
                        prefetch(ahead[n].wrapping_add(begin / rows_of_line * CACHE_LINE));
                    }
                }
                for r in 0..R {
                    // SAFETY: the query has `rows` rows.
                    let x = simd.splat(unsafe { *self.query.add(r * head_dim + dimension) });
                    for n in 0..N {
                        sums[r][n] = simd.mul_add(x, columns[n], sums[r][n]);
                    }
                }
            }
        }
        for r in 0..R {
            for n in 0..N {
                // SAFETY: `scores` has SCORES floats for each row.
                unsafe { simd.store(self.scores.add(r * SCORES + (strip + n) * LANES), sums[r][n]) };
            }
        }
    }
}

/// numerator[row] += weights[row, position] · V[position], for positions `from..to` of the split.
///
/// AHEAD as in `Scores`.
pub(super) struct Gather<'a, E, const AHEAD: bool> {
    pub(super) split: &'a Split<E>,
    pub(super) rows: usize,
    pub(super) from: usize,
    pub(super) to: usize,
    /// [rows, SCORES]
    pub(super) weights: *const f32,
    /// [rows, padded head_dim]
    pub(super) numerator: *mut f32,
}

impl<E: KvElement, const AHEAD: bool> Kernel for Gather<'_, E, AHEAD> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match self.rows {
            1 => self.all_columns::<S, 1>(simd),
            2 => self.all_columns::<S, 2>(simd),
            3 => self.all_columns::<S, 3>(simd),
            4 => self.all_columns::<S, 4>(simd),
            5 => self.all_columns::<S, 5>(simd),
            _ => self.all_columns::<S, MAX_ROWS>(simd),
        }
    }
}

impl<E: KvElement, const AHEAD: bool> Gather<'_, E, AHEAD> {
    #[inline(always)]
    fn all_columns<S: Simd, const R: usize>(&self, simd: S) {
        let together = S::ACCUMULATORS / R;
        let mut column = 0;
        while column < self.split.width {
            let left = (self.split.width - column) / LANES;
            if together >= 4 && left >= 4 {
                self.tile::<S, R, 4>(simd, column);
                column += 4 * LANES;
            } else if together >= 2 && left >= 2 {
                self.tile::<S, R, 2>(simd, column);
                column += 2 * LANES;
            } else {
                self.tile::<S, R, 1>(simd, column);
                column += LANES;
            }
        }
    }

    #[expect(clippy::needless_range_loop, reason = "constant bounds on arrays that become registers")]
    #[inline(always)]
    fn tile<S: Simd, const R: usize, const N: usize>(&self, simd: S, column: usize) {
        let width = self.split.width;
        let mut sums = [[simd.splat(0.0); N]; R];
        for r in 0..R {
            for n in 0..N {
                // SAFETY: the numerator has `rows` rows.
                sums[r][n] = unsafe { simd.load(self.numerator.add(r * width + column + n * LANES)) };
            }
        }
        for strip in self.from / LANES..self.to.div_ceil(LANES) {
            let begin = self.from.max(strip * LANES);
            let end = self.to.min((strip + 1) * LANES);
            let values = self.split.strip(strip).values;
            let ahead = if AHEAD { self.split.after_values(strip) } else { std::ptr::null() };
            for position in begin..end {
                let element = (position - strip * LANES) * width + column;
                if AHEAD {
                    for line in 0..(N * LANES * size_of::<E>()).div_ceil(CACHE_LINE) {
                        prefetch(ahead.wrapping_add(element * size_of::<E>() + line * CACHE_LINE));
                    }
                }
                let mut columns = [simd.splat(0.0); N];
                for n in 0..N {
                    // SAFETY: V of the strip has 16 rows of `width`.
                    columns[n] = unsafe { E::load(simd, values.add(element + n * LANES)) };
                }
                for r in 0..R {
                    // SAFETY: there are SCORES weights for each row.
                    let weight = simd.splat(unsafe { *self.weights.add(r * SCORES + position) });
                    for n in 0..N {
                        sums[r][n] = simd.mul_add(weight, columns[n], sums[r][n]);
                    }
                }
            }
        }
        for r in 0..R {
            for n in 0..N {
                // SAFETY: as above.
                unsafe { simd.store(self.numerator.add(r * width + column + n * LANES), sums[r][n]) };
            }
        }
    }
}
