//! One work item: a tile of query rows of one kv head, over its KV splits.
//!
//! What is fixed, since the bits depend on it: scores are summed in the order of the head's dimensions; every SPLIT
//! positions, counted from position 0, the softmax starts anew; within a split it takes 16 lanes at a time, relative to
//! the row's largest score in the split, and the output is summed in the order of the positions; the splits' states are
//! merged in order. None of it depends on the batch, on the threads, or on which tokens of the sequence came in which
//! step. What a row must not see is left out, not multiplied by zero, so that a NaN there cannot reach it.

use std::f32::consts::LOG2_E;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::kv_cache::{KvCacheConfig, KvElement, Pages, Piece, Sequence};
use crate::simd::{Kernel, LANES, Simd, load_slice, store_first, store_slice};

use super::rows::{CACHE_LINE, Gather, MAX_ROWS, Scores};
use super::schedule::{Item, Join};
use super::split::{AHEAD, Context, SPLIT, STRIPS, Split};
use super::state::State;
use super::store::{Rotation, StoreCall};
use super::weigh::{SCORES, Weigh};
use super::widen::{TOGETHER, WidenKeys, WidenValues};
use super::{AttentionOptions, HeadRows};

/// What all items of one call share.
pub(super) struct Call<'a, E> {
    pub(super) config: &'a KvCacheConfig,
    /// The layer's.
    pub(super) pages: Pages<E>,
    pub(super) table: &'a [u32],
    pub(super) sequences: &'a [Sequence],
    pub(super) query: HeadRows,
    /// Of the queries.
    pub(super) rotation: Option<&'a Rotation<'a>>,
    /// K and V that are still to be stored, if the items do that themselves: each one those of its token.
    pub(super) store: Option<StoreCall<'a, E>>,
    /// Each item writes the rows of its own tokens and heads.
    pub(super) out: HeadRows,
    pub(super) group: usize,
    pub(super) options: AttentionOptions,
    pub(super) partials: *mut f32,
    pub(super) counters: &'a [AtomicU32],
}

/// A thread's working memory.
#[derive(Default)]
pub(super) struct Scratch {
    /// [rows, head_dim], rotated and scaled.
    query: Vec<f32>,
    /// [rows, SCORES]
    scores: Vec<f32>,
    /// [rows] the positions of a split that each row sees.
    visible: Vec<(usize, usize)>,
    /// K or V of a few strips.
    widened: Vec<f32>,
    /// The states of one split, and of all so far.
    split: Vec<f32>,
    total: Vec<f32>,
    /// A split's pages in blocks of 16, where the cache's are no multiple of that.
    copies: Vec<f32>,
}

impl Scratch {
    /// Makes room for items of `rows`.
    pub(super) fn fit(&mut self, rows: usize, config: &KvCacheConfig) {
        let grow = |buffer: &mut Vec<f32>, length: usize| buffer.resize(length.max(buffer.len()), 0.0);
        let state = State::floats(rows, config.padded_head_dim());
        grow(&mut self.query, rows * config.head_dim);
        grow(&mut self.scores, rows * SCORES);
        grow(&mut self.widened, TOGETHER * LANES * config.padded_head_dim());
        self.visible.resize(rows.max(self.visible.len()), (0, 0));
        grow(&mut self.split, state);
        grow(&mut self.total, state);
        if !config.block_size.is_multiple_of(LANES) {
            let strips = KvCacheConfig { block_size: LANES, ..*config };
            grow(&mut self.copies, STRIPS * strips.page_bytes() / size_of::<f32>());
        }
    }
}

/// The kernel of one item.
pub(super) struct Work<'a, E> {
    pub(super) call: &'a Call<'a, E>,
    pub(super) item: Item,
    /// What this thread will probably do next.
    pub(super) upcoming: Option<Item>,
    pub(super) scratch: &'a mut Scratch,
}

impl<E: KvElement> Kernel for Work<'_, E> {
    /// Whether the item's part of `out` is written; else another split's item will.
    type Output = bool;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> bool {
        let Work { call, item, upcoming, scratch } = self;
        let rows = RowsOfItem::new(call, &item);
        if let Some(store) = &call.store {
            // One item has the sequence's last split of this head.
            let (piece, splits) = rows.slot_of_token(call, &item);
            if item.split_end == splits {
                store.prefetch(piece, item.kv_head);
                store.write(simd, piece, item.kv_head);
            }
        }
        gather_queries(simd, call, &item, &mut scratch.query);
        fetch_rows(simd, call, &item, call.out);
        if let Some(upcoming) = &upcoming {
            fetch_rows(simd, call, upcoming, call.query);
        }
        let (count, width) = (rows.count, call.config.padded_head_dim());
        // SAFETY: `fit` made room for both states.
        let (total, one_split) = unsafe {
            let (total, one_split) = (scratch.total.as_mut_ptr(), scratch.split.as_mut_ptr());
            (State::at(total, count, width), State::at(one_split, count, width))
        };
        let partial = |join: &Join, split: usize| {
            let first = join.first_float + split * State::floats(count, width);
            // SAFETY: `prepare` made room for the join, and only this item has the states of its splits, until the
            // join's counter has come to its end.
            unsafe { State::at(call.partials.add(first), count, width) }
        };
        let mut is_first = true;
        for split in item.split_begin..item.split_end {
            let (begin, end) = rows.positions(split);
            let state = match &item.join {
                Some(join) => partial(join, split),
                None if is_first => total,
                None => one_split,
            };
            if item.join.is_some() || begin < end || is_first {
                state.reset(simd);
            }
            if begin == end {
                continue;
            }
            let next = if split + 1 < item.split_end {
                rows.first_reads(split + 1)
            } else {
                upcoming.map_or([std::ptr::null(); AHEAD], |item| {
                    RowsOfItem::new(call, &item).first_reads(item.split_begin)
                })
            };
            let split_data = Split::new(&rows.context, begin, end, next, scratch.copies.as_mut_ptr());
            rows.attend(simd, split * SPLIT, &split_data, state, scratch);
            if item.join.is_none() {
                if !is_first {
                    total.merge(simd, one_split);
                }
                is_first = false;
            }
        }
        if let Some(join) = item.join {
            if !is_last(call.counters, &join) {
                return false;
            }
            total.reset(simd);
            for split in 0..join.num_splits {
                total.merge(simd, partial(&join, split));
            }
        }
        call.write(simd, &item, total);
        true
    }
}

impl<E> Call<'_, E> {
    /// The rows of an item, from their numerators and sums.
    #[inline(always)]
    fn write<S: Simd>(&self, simd: S, item: &Item, total: State) {
        let (group, head_dim) = (self.group, self.config.head_dim);
        let tokens = item.tokens(self.sequences);
        for row in 0..tokens.len() * group {
            let (token, head) = (tokens.start + row / group, item.kv_head * group + row % group);
            // SAFETY: `out` has the step's tokens and heads, and this one is this item's alone; `total` has the row.
            unsafe {
                let out = self.out.pointer.add(token * self.out.stride + head * head_dim);
                let factor = simd.splat(1.0 / *total.sum.add(row));
                for at in (0..head_dim).step_by(LANES) {
                    let value = simd.mul(simd.load(total.row(row).add(at)), factor);
                    match head_dim - at {
                        LANES.. => simd.store(out.add(at), value),
                        left => store_first(simd, out.add(at), value, left),
                    }
                }
            }
        }
    }
}

/// Counts a finished piece; true for the last one, which leaves the counter at 0 for the next layer.
fn is_last(counters: &[AtomicU32], join: &Join) -> bool {
    let counter = &counters[join.counter];
    let last = counter.fetch_add(1, Ordering::AcqRel) as usize + 1 == join.num_pieces;
    if last {
        counter.store(0, Ordering::Relaxed);
    }
    last
}

/// The item's query rows, rotated and multiplied by what makes their products with K scores.
#[inline(always)]
fn gather_queries<S: Simd, E>(simd: S, call: &Call<'_, E>, item: &Item, to: &mut [f32]) {
    let length = call.group * call.config.head_dim;
    let AttentionOptions { scale, softcap, .. } = call.options;
    // The soft cap's result is multiplied instead: see weigh.rs.
    let factor = if softcap > 0.0 { scale } else { scale * LOG2_E };
    for (token, to) in item.tokens(call.sequences).zip(to.chunks_exact_mut(length)) {
        // SAFETY: `query` has the step's tokens and heads.
        let from = unsafe {
            let from = call.query.pointer.add(token * call.query.stride + item.kv_head * length);
            std::slice::from_raw_parts(from.cast_const(), length)
        };
        for at in (0..length).step_by(LANES) {
            store_slice(simd, to, at, load_slice(simd, from, at));
        }
        if let Some(rotation) = call.rotation {
            rotation.apply(simd, token, to, call.config.head_dim, rotation.query_norm);
        }
        for x in to {
            *x *= factor;
        }
    }
}

/// Asks for the heads of an item's tokens, which lie in a few lines of each token's row and come late otherwise.
#[inline(always)]
fn fetch_rows<S: Simd, E>(simd: S, call: &Call<'_, E>, item: &Item, rows: HeadRows) {
    let length = call.group * call.config.head_dim;
    for token in item.tokens(call.sequences) {
        let heads = rows.pointer.wrapping_add(token * rows.stride + item.kv_head * length).cast_const();
        for at in (0..length).step_by(CACHE_LINE / size_of::<f32>()) {
            simd.prefetch_far(heads.wrapping_add(at).cast());
        }
    }
}

/// The query rows of an item: token by token, the heads of the group together.
struct RowsOfItem<'a, E> {
    options: AttentionOptions,
    group: usize,
    context: Context<'a, E>,
    /// Position of the first token.
    first_position: usize,
    count: usize,
}

impl<'a, E: KvElement> RowsOfItem<'a, E> {
    #[inline(always)]
    fn new(call: &Call<'a, E>, item: &Item) -> Self {
        let sequence = &call.sequences[item.sequence];
        let columns = call.config.max_blocks_per_seq;
        Self {
            options: call.options,
            group: call.group,
            context: Context {
                pages: call.pages,
                head: item.kv_head,
                blocks: &call.table[sequence.row * columns..][..columns],
            },
            first_position: sequence.context + item.token_begin,
            count: (item.token_end - item.token_begin) * call.group,
        }
    }

    /// Where the item's only token goes, and the splits of the context with it.
    #[inline(always)]
    fn slot_of_token(&self, call: &Call<'_, E>, item: &Item) -> (Piece, usize) {
        let (position, block_size) = (self.first_position, call.config.block_size);
        let piece = Piece {
            token: call.sequences[item.sequence].query_begin,
            count: 1,
            block: self.context.blocks[position / block_size] as usize,
            offset: position % block_size,
        };
        (piece, position / SPLIT + 1)
    }

    /// The positions that a row sees.
    #[inline(always)]
    fn visible(&self, row: usize) -> (usize, usize) {
        let end = self.first_position + row / self.group + 1;
        match self.options.sliding_window {
            0 => (0, end),
            window => (end.saturating_sub(window), end),
        }
    }

    /// The same, counted from `begin` and cut to a split; empty as (x, x). Both ends grow with the row.
    #[inline(always)]
    fn visible_from(&self, row: usize, split_begin: usize) -> (usize, usize) {
        let (begin, end) = self.visible(row);
        let end = end.saturating_sub(split_begin).min(SPLIT);
        (begin.saturating_sub(split_begin).min(end), end)
    }

    /// The positions of a split that some row sees.
    #[inline(always)]
    fn positions(&self, split: usize) -> (usize, usize) {
        let end = self.visible(self.count - 1).1.min((split + 1) * SPLIT);
        (self.visible(0).0.max(split * SPLIT).min(end), end)
    }

    #[inline(always)]
    fn first_reads(&self, split: usize) -> [*const u8; AHEAD] {
        let (begin, end) = self.positions(split);
        self.context.first_reads(begin / LANES * LANES, end)
    }

    /// Attends from all rows to a split.
    #[inline(always)]
    fn attend<S: Simd>(&self, simd: S, split_begin: usize, split: &Split<E>, state: State, scratch: &mut Scratch) {
        let (query, scores) = (scratch.query.as_ptr(), scratch.scores.as_mut_ptr());
        let widened = scratch.widened.as_mut_ptr();
        let visible = &mut scratch.visible[..self.count];
        for (row, visible) in visible.iter_mut().enumerate() {
            *visible = self.visible_from(row, split_begin);
        }
        let visible = &*visible;
        let weigh = Weigh { split, softcap: self.options.softcap, visible, scores, state };
        if self.count <= MAX_ROWS {
            simd.call(Scores::<E, true> { split, rows: self.count, query, scores });
            simd.call(weigh);
            gather::<S, E, true>(simd, split, 0, scores, visible, state.row(0));
            return;
        }
        let rows = self.count.div_ceil(self.count.div_ceil(MAX_ROWS));
        let turns = || (0..self.count).step_by(rows).map(|first| (first, rows.min(self.count - first)));
        let strips =
            || (split.first..split.last).step_by(TOGETHER).map(|first| (first, TOGETHER.min(split.last - first)));
        for (strip, count) in strips() {
            simd.call(WidenKeys { split, first: strip, count, to: widened });
            let mut split = Split::widened(widened, count, split.head_dim, split.width);
            for (first, rows) in turns() {
                let query = query.wrapping_add(first * split.head_dim);
                let scores = scores.wrapping_add(first * SCORES + strip * LANES);
                let end = visible[first + rows - 1].1.div_ceil(LANES);
                split.last = count.min(end.saturating_sub(strip));
                simd.call(Scores::<f32, false> { split: &split, rows, query, scores });
            }
        }
        simd.call(weigh);
        for (strip, count) in strips() {
            simd.call(WidenValues { split, first: strip, count, to: widened });
            let split = &Split::widened(widened, count, split.head_dim, split.width);
            for (first, rows) in turns() {
                let weights = scores.wrapping_add(first * SCORES + strip * LANES).cast_const();
                let visible = &visible[first..first + rows];
                gather::<S, f32, false>(simd, split, strip * LANES, weights, visible, state.row(first));
            }
        }
    }
}

/// Sums V of a split's strips, which begin at `begin`, by the weights of some rows, which see what `visible` says.
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
    let limit = split.last * LANES;
    for (seen, visible) in seen.iter_mut().zip(visible) {
        let end = visible.1.saturating_sub(begin).min(limit);
        *seen = (visible.0.saturating_sub(begin).min(end), end);
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
