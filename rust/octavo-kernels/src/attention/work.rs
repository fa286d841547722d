//! One work item: a tile of query rows of one kv head, over its KV splits.
//!
//! What is fixed, since the bits depend on it: scores are summed in the order of the head's dimensions; positions are
//! taken in tiles of 64 counted from position 0; within a tile the softmax takes 16 lanes at a time and the output is
//! summed in the order of the positions; every SPLIT positions the state starts anew, and the states are merged in
//! order. None of it depends on the batch, on the threads, or on which tokens of the sequence came in which step.
//! What a row must not see is left out, not multiplied by zero, so that a NaN there cannot reach it.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::kv_cache::{KvCacheConfig, Sequence};
use crate::matrix::{MAX_STRIPS, Product};
use crate::simd::{Element, Kernel, LANES, Simd};

use super::schedule::{Item, Join, SPLIT};
use super::state::State;
use super::{AttentionOptions, HeadRows};

/// Positions whose scores are computed together.
const TILE: usize = 64;
const TILE_STRIPS: usize = TILE / LANES;

/// From so many query rows on, a 16-bit tile is widened once into scratch memory instead of at each use.
const WIDEN_FROM_ROWS: usize = 12;

/// Query rows that the second product takes together.
const ROWS_TOGETHER: usize = 6;

/// What all items of one call share.
pub(super) struct Call<'a, E> {
    pub(super) config: &'a KvCacheConfig,
    /// The layer's pages.
    pub(super) pages: *const E,
    pub(super) table: &'a [u32],
    pub(super) sequences: &'a [Sequence],
    pub(super) query: HeadRows,
    /// Each item writes the rows of its own tokens and heads.
    pub(super) out: HeadRows,
    pub(super) group: usize,
    pub(super) options: AttentionOptions,
    pub(super) partials: *mut f32,
    pub(super) counters: &'a [AtomicU32],
}

// SAFETY: the pages are only read; `out` and `partials` are written by one item for each element, or, after the join's
// counter has ordered the accesses, read by its last one.
unsafe impl<E> Sync for Call<'_, E> {}

/// A thread's working memory.
#[derive(Default)]
pub(super) struct Scratch {
    /// [rows, head_dim], scaled.
    query: Vec<f32>,
    /// [rows, TILE]
    scores: Vec<f32>,
    /// The states of one split, and of all so far.
    split: Vec<f32>,
    total: Vec<f32>,
    /// [head_dim, TILE] and [TILE, padded head_dim], where pages cannot be used as they lie.
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// The kernel of one item.
pub(super) struct Work<'a, E> {
    pub(super) call: &'a Call<'a, E>,
    pub(super) item: Item,
    pub(super) scratch: &'a mut Scratch,
}

/// One tile of positions, ready for the products.
struct Tile<E> {
    begin: usize,
    strips: [*const E; MAX_STRIPS],
    num_strips: usize,
    stride: usize,
}

impl<E: Element> Kernel for Work<'_, E> {
    /// Whether the item's part of `out` is written; else another split's item will.
    type Output = bool;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> bool {
        let Work { call, item, scratch } = self;
        let sequence = call.sequences[item.sequence];
        let (head_dim, width) = (call.config.head_dim, call.config.padded_head_dim());
        let rows = (item.token_end - item.token_begin) * call.group;
        let state_len = rows * (width + 2);
        scratch.fit(rows, call.config);
        gather_queries(call, &sequence, &item, &mut scratch.query);
        // SAFETY: `fit` made room for both states; `prepare` made room for the partial ones, and only this item has
        // this split's.
        let (total, split_state) = unsafe {
            let own = match item.join {
                None => scratch.split.as_mut_ptr(),
                Some(join) => call.partials.add(join.first_row * (width + 2) + item.split_begin * state_len),
            };
            (State::at(scratch.total.as_mut_ptr(), rows, width), State::at(own, rows, width))
        };
        total.reset();
        let rows_of_item = RowsOfItem {
            call,
            kv_head: item.kv_head,
            blocks: &call.table[sequence.row * call.config.max_blocks_per_seq..][..call.config.max_blocks_per_seq],
            first_position: sequence.context + item.token_begin,
            rows,
        };
        for split in item.split_begin..item.split_end {
            split_state.reset();
            rows_of_item.split(simd, split, split_state, scratch);
            if item.join.is_none() {
                total.merge(simd, split_state);
            }
        }
        if let Some(join) = item.join {
            if !is_last(call.counters, &join) {
                return false;
            }
            for split in 0..join.num_splits {
                // SAFETY: as above, and every split of the join has been written, by the counter's order.
                let other = unsafe {
                    State::at(call.partials.add(join.first_row * (width + 2) + split * state_len), rows, width)
                };
                total.merge(simd, other);
            }
        }
        let first_token = sequence.query_begin + item.token_begin;
        for row in 0..rows {
            let head = item.kv_head * call.group + row % call.group;
            // SAFETY: `out` has the step's tokens and heads, and this one is this item's alone; `total` has the row.
            unsafe {
                total.scale(simd, row, 1.0 / *total.sum.add(row));
                let from = total.numerator.add(row * width);
                let to = call.out.pointer.add((first_token + row / call.group) * call.out.stride + head * head_dim);
                std::ptr::copy_nonoverlapping(from, to, head_dim);
            }
        }
        true
    }
}

/// Counts a finished split; true for the last one, which leaves the counter at 0 for the next layer.
fn is_last(counters: &[AtomicU32], join: &Join) -> bool {
    let counter = &counters[join.counter];
    let last = counter.fetch_add(1, Ordering::AcqRel) as usize + 1 == join.num_splits;
    if last {
        counter.store(0, Ordering::Relaxed);
    }
    last
}

fn gather_queries<E>(call: &Call<'_, E>, sequence: &Sequence, item: &Item, to: &mut [f32]) {
    let (head_dim, group) = (call.config.head_dim, call.group);
    let tokens = sequence.query_begin + item.token_begin..sequence.query_begin + item.token_end;
    for (token, to) in tokens.zip(to.chunks_exact_mut(group * head_dim)) {
        // SAFETY: `query` has the step's tokens and heads.
        let from = unsafe {
            let from = call.query.pointer.add(token * call.query.stride + item.kv_head * group * head_dim);
            std::slice::from_raw_parts(from.cast_const(), group * head_dim)
        };
        for (to, from) in to.iter_mut().zip(from) {
            *to = from * call.options.scale;
        }
    }
}

impl Scratch {
    fn fit(&mut self, rows: usize, config: &KvCacheConfig) {
        let width = config.padded_head_dim();
        let grow = |buffer: &mut Vec<f32>, length: usize| buffer.resize(length.max(buffer.len()), 0.0);
        grow(&mut self.query, rows * config.head_dim);
        grow(&mut self.scores, rows * TILE);
        grow(&mut self.split, rows * (width + 2));
        grow(&mut self.total, rows * (width + 2));
        grow(&mut self.keys, config.head_dim * TILE);
        grow(&mut self.values, TILE * width);
    }
}

struct RowsOfItem<'a, E> {
    call: &'a Call<'a, E>,
    kv_head: usize,
    /// The sequence's row of the block table.
    blocks: &'a [u32],
    /// Position of the first token; rows come token by token, the heads of the group together.
    first_position: usize,
    rows: usize,
}

impl<E: Element> RowsOfItem<'_, E> {
    /// The positions that a row sees.
    #[inline(always)]
    fn visible(&self, row: usize) -> (usize, usize) {
        let end = self.first_position + row / self.call.group + 1;
        match self.call.options.sliding_window {
            0 => (0, end),
            window => (end.saturating_sub(window), end),
        }
    }

    /// The same, counted from the beginning of a tile and cut to it; empty as (x, x).
    #[inline(always)]
    fn visible_in(&self, row: usize, tile_begin: usize) -> (usize, usize) {
        let (begin, end) = self.visible(row);
        let end = end.saturating_sub(tile_begin).min(TILE);
        (begin.saturating_sub(tile_begin).min(end), end)
    }

    #[inline(always)]
    fn page(&self, position: usize) -> *const E {
        let config = self.call.config;
        let block = self.blocks[position / config.block_size] as usize;
        // SAFETY: the table holds valid blocks only, and `kv_head` is below num_kv_heads.
        unsafe { self.call.pages.add((block * config.num_kv_heads + self.kv_head) * config.page_elements()) }
    }

    #[inline(always)]
    fn split<S: Simd>(&self, simd: S, split: usize, state: State, scratch: &mut Scratch) {
        let first = self.visible(0).0;
        let end = self.visible(self.rows - 1).1.min((split + 1) * SPLIT);
        let mut begin = (split * SPLIT).max(first / TILE * TILE);
        let as_it_lies = self.call.config.block_size.is_multiple_of(LANES)
            && (size_of::<E>() == size_of::<f32>() || self.rows < WIDEN_FROM_ROWS);
        while begin < end {
            let num_strips = (end - begin).div_ceil(LANES).min(TILE_STRIPS);
            if as_it_lies {
                self.tile_in_place(simd, begin, num_strips, state, scratch);
            } else {
                self.tile_widened(simd, begin, num_strips, state, scratch);
            }
            begin += TILE;
        }
    }

    /// A tile whose K and V are read from the pages.
    #[inline(always)]
    fn tile_in_place<S: Simd>(&self, simd: S, begin: usize, num_strips: usize, state: State, scratch: &mut Scratch) {
        let config = self.call.config;
        let mut strips = [std::ptr::null(); MAX_STRIPS];
        for (index, strip) in strips.iter_mut().enumerate().take(num_strips) {
            let position = begin + index * LANES;
            // SAFETY: inside the page's K, as the block size is a multiple of 16.
            *strip = unsafe { self.page(position).add(position % config.block_size) };
        }
        let tile = Tile { begin, strips, num_strips, stride: config.block_size };
        self.weigh(simd, &tile, state, scratch);
        let mut position = 0;
        let positions = num_strips * LANES;
        while position < positions {
            let offset = (begin + position) % config.block_size;
            let next = positions.min(position + config.block_size - offset);
            // SAFETY: V's row `offset` inside the page.
            let values =
                unsafe { self.page(begin + position).add(config.key_elements() + offset * config.padded_head_dim()) };
            self.gather(simd, begin, position, next, values, state, scratch);
            position = next;
        }
    }

    /// A tile whose K and V are first widened into scratch memory: for block sizes that are no multiple of 16, and for
    /// many rows on 16-bit pages.
    #[inline(always)]
    fn tile_widened<S: Simd>(&self, simd: S, begin: usize, num_strips: usize, state: State, scratch: &mut Scratch) {
        let config = self.call.config;
        let (head_dim, width) = (config.head_dim, config.padded_head_dim());
        let (keys, values) = (scratch.keys.as_mut_ptr(), scratch.values.as_mut_ptr());
        // The last strip may reach beyond the context, where the table need not say anything.
        let positions = (num_strips * LANES).min(self.visible(self.rows - 1).1 - begin);
        for index in 0..positions {
            let offset = (begin + index) % config.block_size;
            let page = self.page(begin + index);
            // SAFETY: `page` has K and V of the position; `fit` made room for TILE positions.
            unsafe {
                if config.block_size.is_multiple_of(LANES) {
                    if index % LANES == 0 {
                        for dimension in 0..head_dim {
                            let lanes = E::load(simd, page.add(dimension * config.block_size + offset));
                            simd.store(keys.add(dimension * TILE + index), lanes);
                        }
                    }
                } else {
                    for dimension in 0..head_dim {
                        *keys.add(dimension * TILE + index) =
                            (*page.add(dimension * config.block_size + offset)).widen();
                    }
                }
                let row = page.add(config.key_elements() + offset * width);
                for at in (0..width).step_by(LANES) {
                    simd.store(values.add(index * width + at), E::load(simd, row.add(at)));
                }
            }
        }
        let mut strips = [std::ptr::null(); MAX_STRIPS];
        for (index, strip) in strips.iter_mut().enumerate().take(num_strips) {
            *strip = keys.wrapping_add(index * LANES).cast_const();
        }
        let tile = Tile { begin, strips, num_strips, stride: TILE };
        self.weigh(simd, &tile, state, scratch);
        self.gather(simd, begin, 0, positions, values.cast_const(), state, scratch);
    }

    /// Scores of a tile, turned into weights relative to each row's largest score so far.
    #[inline(always)]
    fn weigh<S: Simd, K: Element>(&self, simd: S, tile: &Tile<K>, state: State, scratch: &mut Scratch) {
        let scores = scratch.scores.as_mut_ptr();
        let product = Product {
            rows: self.rows,
            k: self.call.config.head_dim,
            a: scratch.query.as_ptr(),
            a_stride: self.call.config.head_dim,
            strips: tile.strips,
            num_strips: tile.num_strips,
            b_stride: tile.stride,
            c: scores,
            c_stride: TILE,
            accumulate: false,
        };
        // SAFETY: `fit` made room for the queries and scores; the caller gave strips of head_dim rows.
        unsafe { product.multiply(simd) };
        for row in 0..self.rows {
            let (begin, end) = self.visible_in(row, tile.begin);
            if begin < end {
                // SAFETY: `fit` made room for TILE scores a row.
                let scores = unsafe { std::slice::from_raw_parts_mut(scores.add(row * TILE), tile.num_strips * LANES) };
                self.weigh_row(simd, row, scores, begin, end, state);
            }
        }
    }

    #[inline(always)]
    fn weigh_row<S: Simd>(&self, simd: S, row: usize, scores: &mut [f32], begin: usize, end: usize, state: State) {
        let softcap = self.call.options.softcap;
        let length = scores.len();
        let scores_at = scores.as_mut_ptr();
        if softcap > 0.0 {
            let (cap, inverse) = (simd.splat(softcap), simd.splat(1.0 / softcap));
            for at in (0..length).step_by(LANES) {
                // SAFETY: the length is a multiple of 16.
                unsafe {
                    let capped = simd.mul(cap, simd.tanh(simd.mul(simd.load(scores_at.add(at)), inverse)));
                    simd.store(scores_at.add(at), capped);
                }
            }
        }
        scores[..begin].fill(f32::NEG_INFINITY);
        scores[end..].fill(f32::NEG_INFINITY);
        let mut largest = simd.splat(f32::NEG_INFINITY);
        for at in (0..length).step_by(LANES) {
            // SAFETY: as above.
            largest = simd.max(unsafe { simd.load(scores_at.add(at)) }, largest);
        }
        // SAFETY: `state` has this row.
        unsafe {
            let old = *state.largest.add(row);
            let tile_largest = simd.largest(largest);
            let new = if tile_largest > old { tile_largest } else { old };
            let mut sum = simd.splat(0.0);
            for at in (0..length).step_by(LANES) {
                let weight = simd.exp(simd.sub(simd.load(scores_at.add(at)), simd.splat(new)));
                simd.store(scores_at.add(at), weight);
                sum = simd.add(sum, weight);
            }
            if new > old {
                let keep = (old - new).exp();
                *state.sum.add(row) *= keep;
                *state.largest.add(row) = new;
                state.scale(simd, row, keep);
            }
            *state.sum.add(row) += simd.sum(sum);
        }
    }

    /// Adds weights · V for the tile's positions from `from` to `to`, whose V rows begin at `values`.
    #[expect(
        clippy::too_many_arguments,
        reason = "a range of positions and where its V lies; a struct would only rename them"
    )]
    #[inline(always)]
    fn gather<S: Simd, V: Element>(
        &self,
        simd: S,
        tile_begin: usize,
        from: usize,
        to: usize,
        values: *const V,
        state: State,
        scratch: &Scratch,
    ) {
        let width = state.width;
        let add = |row: usize, rows: usize, begin: usize, end: usize| {
            if begin >= end {
                return;
            }
            let mut strips = [std::ptr::null(); MAX_STRIPS];
            for (index, strip) in strips.iter_mut().enumerate().take(width / LANES) {
                *strip = values.wrapping_add((begin - from) * width + index * LANES);
            }
            let product = Product {
                rows,
                k: end - begin,
                a: scratch.scores[row * TILE + begin..].as_ptr(),
                a_stride: TILE,
                strips,
                num_strips: width / LANES,
                b_stride: width,
                c: state.numerator.wrapping_add(row * width),
                c_stride: width,
                accumulate: true,
            };
            // SAFETY: the weights of these rows and positions were computed, the caller gave their V rows, and `state`
            // has the rows.
            unsafe { product.multiply(simd) };
        };
        for first in (0..self.rows).step_by(ROWS_TOGETHER) {
            let rows = ROWS_TOGETHER.min(self.rows - first);
            // Later rows see later positions: what all of them see is from the last row's begin to the first row's end.
            let common_begin = self.visible_in(first + rows - 1, tile_begin).0.clamp(from, to);
            let common_end = self.visible_in(first, tile_begin).1.clamp(from, to);
            if common_begin < common_end {
                for row in first..first + rows {
                    add(row, 1, self.visible_in(row, tile_begin).0.clamp(from, to), common_begin);
                }
                add(first, rows, common_begin, common_end);
                for row in first..first + rows {
                    add(row, 1, common_end, self.visible_in(row, tile_begin).1.clamp(from, to));
                }
            } else {
                for row in first..first + rows {
                    let (begin, end) = self.visible_in(row, tile_begin);
                    add(row, 1, begin.clamp(from, to), end.clamp(from, to));
                }
            }
        }
    }
}
