//! The products of any number of rows over a split: few read K and V as the pages have them, many a widened copy.

use std::ops::Range;

use crate::kv_cache::KvElement;
use crate::simd::{LANES, Simd};

use super::rows::{Gather, MAX_ROWS, Scores};
use super::split::Split;
use super::state::State;
use super::weigh::{SCORES, Weigh};
use super::widen::{TOGETHER, WidenKeys, WidenValues};

/// Some rows, and where a thread keeps what belongs to them.
#[derive(Clone, Copy)]
pub(super) struct Tall {
    pub(super) count: usize,
    pub(super) head_dim: usize,
    /// [rows, head_dim]
    pub(super) query: *const f32,
    /// [rows, SCORES]
    pub(super) scores: *mut f32,
    /// [rows] the positions of the split that each sees; of its strips, both ends grow with the row.
    pub(super) visible: *const (usize, usize),
    /// K or V of a few strips.
    pub(super) widened: *mut f32,
}

impl Tall {
    /// Some of the rows.
    #[inline(always)]
    pub(super) fn part(self, rows: Range<usize>) -> Self {
        Self {
            count: rows.len(),
            query: self.query.wrapping_add(rows.start * self.head_dim),
            scores: self.scores.wrapping_add(rows.start * SCORES),
            visible: self.visible.wrapping_add(rows.start),
            ..self
        }
    }

    /// What each row sees of the split.
    #[inline(always)]
    fn visible(&self) -> &[(usize, usize)] {
        // SAFETY: the rows have been written, and stay while a split is worked on.
        unsafe { std::slice::from_raw_parts(self.visible, self.count) }
    }

    /// The scores of all strips of the split.
    #[inline(always)]
    pub(super) fn score<S: Simd, E: KvElement>(self, simd: S, split: &Split<E>) {
        let (Self { query, scores, widened, .. }, visible) = (self, self.visible());
        if visible.len() <= MAX_ROWS {
            simd.call(Scores::<E, true> { split, rows: visible.len(), query, scores });
            return;
        }
        for (strip, count) in strips(split) {
            simd.call(WidenKeys { split, first: strip, count, to: widened });
            let mut split = Split::widened(widened, count, split.head_dim, split.width);
            for (first, rows) in turns(visible.len()) {
                let query = query.wrapping_add(first * split.head_dim);
                let scores = scores.wrapping_add(first * SCORES + strip * LANES);
                let end = visible[first + rows - 1].1.div_ceil(LANES);
                split.last = count.min(end.saturating_sub(strip));
                simd.call(Scores::<f32, false> { split: &split, rows, query, scores });
            }
        }
    }

    /// From scores to weights, relative to the largest score of each row, which `state` notes with the weights' sum.
    #[inline(always)]
    pub(super) fn weigh<S: Simd, E: KvElement>(self, simd: S, split: &Split<E>, softcap: f32, state: State) {
        simd.call(Weigh { split, softcap, visible: self.visible(), scores: self.scores, state });
    }

    /// Adds V of the split's strips by the rows' weights, which `scores` holds now, to [rows, width].
    #[inline(always)]
    pub(super) fn gather<S: Simd, E: KvElement>(self, simd: S, split: &Split<E>, numerator: *mut f32) {
        let (Self { scores, widened, .. }, visible) = (self, self.visible());
        if visible.len() <= MAX_ROWS {
            gather::<S, E, true>(simd, split, 0, scores, visible, numerator);
            return;
        }
        for (strip, count) in strips(split) {
            simd.call(WidenValues { split, first: strip, count, to: widened });
            let widened = &Split::widened(widened, count, split.head_dim, split.width);
            for (first, rows) in turns(visible.len()) {
                let weights = scores.wrapping_add(first * SCORES + strip * LANES).cast_const();
                let numerator = numerator.wrapping_add(first * split.width);
                gather::<S, f32, false>(
                    simd,
                    widened,
                    strip * LANES,
                    weights,
                    &visible[first..first + rows],
                    numerator,
                );
            }
        }
    }
}

/// Rows that are multiplied together: (first, count).
#[inline(always)]
fn turns(rows: usize) -> impl Iterator<Item = (usize, usize)> {
    let step = rows.div_ceil(rows.div_ceil(MAX_ROWS));
    (0..rows).step_by(step).map(move |first| (first, step.min(rows - first)))
}

/// Strips that are widened together: (first, count).
#[inline(always)]
fn strips<E>(split: &Split<E>) -> impl Iterator<Item = (usize, usize)> {
    let last = split.last;
    (split.first..last).step_by(TOGETHER).map(move |first| (first, TOGETHER.min(last - first)))
}

/// Sums V of a split's strips, the first of which is strip 0 at `begin`, by the weights of some rows.
#[inline(always)]
fn gather<S: Simd, E: KvElement, const AHEAD: bool>(
    simd: S,
    split: &Split<E>,
    begin: usize,
    weights: *const f32,
    visible: &[(usize, usize)],
    numerator: *mut f32,
) {
    let mut seen = [(0, 0); MAX_ROWS];
    let (first, limit) = (split.first * LANES, split.last * LANES);
    for (seen, visible) in seen.iter_mut().zip(visible) {
        let end = visible.1.saturating_sub(begin).min(limit);
        *seen = (visible.0.saturating_sub(begin).max(first).min(end), end);
    }
    let visible = &seen[..visible.len()];
    let end = visible[visible.len() - 1].1;
    let mut from = visible[0].0;
    while from < end {
        // Who sees position `from` is a range of rows, the same up to the next begin or end.
        let begin_row = visible.iter().take_while(|visible| visible.1 <= from).count();
        let end_row = visible.iter().take_while(|visible| visible.0 <= from).count();
        let next_begin = visible.get(end_row).map_or(end, |visible| visible.0);
        let to = if begin_row < end_row { next_begin.min(visible[begin_row].1) } else { next_begin };
        if begin_row < end_row {
            simd.call(Gather::<E, AHEAD> {
                split,
                rows: end_row - begin_row,
                from,
                to,
                weights: weights.wrapping_add(begin_row * SCORES),
                numerator: numerator.wrapping_add(begin_row * split.width),
            });
        }
        from = to;
    }
}
