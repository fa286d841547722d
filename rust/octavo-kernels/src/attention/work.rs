//! One work item: a tile of query rows of one kv head over some KV splits, or several tiles over one that they share.
//!
//! What is fixed, since the bits depend on it: scores are summed in the order of the head's dimensions; every SPLIT
//! positions, counted from position 0, the softmax starts anew; within a split it takes 16 lanes at a time, relative to
//! the row's largest score in the split, and the output is summed in the order of the positions; the splits' states are
//! merged in order. None of it depends on the batch, on the threads, or on which tokens of the sequence came in which
//! step. What a row must not see is left out, not multiplied by zero, so that a NaN there cannot reach it.

use std::f32::consts::LOG2_E;
use std::ops::Range;
use std::sync::atomic::Ordering;

use crate::kv_cache::{KvCacheConfig, KvElement, Pages, Sequence};
use crate::linear::{Activations, BLOCK};
use crate::simd::{Kernel, LANES, Simd, load_slice, store_first, store_slice};

use super::rows::CACHE_LINE;
use super::schedule::{Item, Schedule, Tile};
use super::split::{AHEAD, SPLIT, STRIPS, Split};
use super::state::State;
use super::store::{Rotation, StoreCall};
use super::tall::Tall;
use super::tile::TileRows;
use super::weigh::SCORES;
use super::widen::TOGETHER;
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
    /// The last item of a tile and kv head writes these rows.
    pub(super) out: Out<'a>,
    pub(super) group: usize,
    pub(super) options: AttentionOptions,
    pub(super) schedule: &'a Schedule,
}

/// What attention writes.
#[derive(Clone, Copy)]
pub(super) enum Out<'a> {
    Floats(HeadRows),
    /// Where a head is whole blocks of what products read.
    Blocks(&'a Activations),
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

    /// The state of a split, for as many rows.
    fn split(&mut self, rows: usize, config: &KvCacheConfig) -> State {
        // SAFETY: `fit` made room for it.
        unsafe { State::at(self.split.as_mut_ptr(), rows, config.padded_head_dim()) }
    }

    /// The state of all splits so far.
    fn total(&mut self, rows: usize, config: &KvCacheConfig) -> State {
        // SAFETY: `fit` made room for it.
        unsafe { State::at(self.total.as_mut_ptr(), rows, config.padded_head_dim()) }
    }

    /// Some of the rows, whose queries and `visible` are there.
    fn tall(&mut self, rows: Range<usize>, head_dim: usize) -> Tall {
        Tall {
            count: rows.len(),
            query: self.query.as_ptr().wrapping_add(rows.start * head_dim),
            scores: self.scores.as_mut_ptr().wrapping_add(rows.start * SCORES),
            visible: self.visible.as_ptr().wrapping_add(rows.start),
            widened: self.widened.as_mut_ptr(),
            head_dim,
        }
    }
}

/// The kernel of one item.
pub(super) struct Work<'a, E> {
    pub(super) call: &'a Call<'a, E>,
    pub(super) item: &'a Item,
    /// What this thread will probably do next.
    pub(super) upcoming: Option<&'a Item>,
    pub(super) scratch: &'a mut Scratch,
}

impl<E: KvElement> Kernel for Work<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Work { call, item, upcoming, scratch } = self;
        let head_dim = call.config.head_dim;
        let mut count = 0;
        for tile in call.schedule.tiles(item) {
            let rows = TileRows::new(call, tile, item.kv_head);
            // One item has the tile's last split of this head.
            if let Some(store) = call.store.as_ref().filter(|_| item.split_end == tile.num_splits()) {
                let piece = rows.slot_of_token(call, tile);
                store.prefetch(piece, item.kv_head);
                store.write(simd, piece, item.kv_head);
            }
            gather_queries(simd, call, tile, item.kv_head, &mut scratch.query[count * head_dim..]);
            if let Out::Floats(out) = call.out {
                fetch_rows(simd, call, tile, item.kv_head, out);
            }
            count += rows.count;
        }
        let mut next = [std::ptr::null(); AHEAD];
        if let Some(item) = upcoming {
            for tile in call.schedule.tiles(item) {
                fetch_rows(simd, call, tile, item.kv_head, call.query);
            }
            for tile in call.schedule.tiles(item).take(1) {
                next = TileRows::new(call, tile, item.kv_head).first_reads(item.split_begin);
            }
        }
        match item.shared {
            0 => call.alone(simd, item, next, scratch),
            _ => call.together(simd, item, next, scratch),
        }
    }
}

impl<E: KvElement> Call<'_, E> {
    /// One tile over its splits.
    #[inline(always)]
    fn alone<S: Simd>(&self, simd: S, item: &Item, next: [*const u8; AHEAD], scratch: &mut Scratch) {
        for tile in self.schedule.tiles(item) {
            let rows = TileRows::new(self, tile, item.kv_head);
            let total = scratch.total(rows.count, self.config);
            let one_split = scratch.split(rows.count, self.config);
            for split in item.split_begin..item.split_end {
                let is_first = split == item.split_begin;
                let after = if split + 1 < item.split_end { rows.first_reads(split + 1) } else { next };
                let state = match tile.num_pieces {
                    1 if is_first => total,
                    1 => one_split,
                    _ => self.partial(tile, item.kv_head, split),
                };
                self.attend(simd, &rows, (split, after), 0, state, scratch);
                if tile.num_pieces == 1 && !is_first {
                    total.merge(simd, one_split);
                }
            }
            self.finish(simd, tile, item.kv_head, (total, 0), scratch);
        }
    }

    /// Attends from a tile's rows, which are in the scratch from `first` on, to a split.
    #[inline(always)]
    fn attend<S: Simd>(
        &self,
        simd: S,
        rows: &TileRows<'_, E>,
        (split, next): (usize, [*const u8; AHEAD]),
        first: usize,
        state: State,
        scratch: &mut Scratch,
    ) {
        state.reset(simd);
        let (begin, end) = rows.positions(split);
        if begin == end {
            return;
        }
        let data = Split::new(&rows.context, begin, end, next, scratch.copies.as_mut_ptr());
        rows.see(split, &mut scratch.visible[first..]);
        let tall = scratch.tall(first..first + rows.count, self.config.head_dim);
        tall.score(simd, &data);
        tall.weigh(simd, &data, self.options.softcap, state);
        tall.gather(simd, &data, state.row(0));
    }

    /// Several tiles over one split, of which they share the first positions.
    #[inline(always)]
    fn together<S: Simd>(&self, simd: S, item: &Item, next: [*const u8; AHEAD], scratch: &mut Scratch) {
        let (split, begin, softcap) = (item.split_begin, item.split_begin * SPLIT, self.options.softcap);
        let tiles = || self.schedule.tiles(item).map(|tile| (tile, TileRows::new(self, tile, item.kv_head)));
        let is_seen = tiles().all(|(_, rows)| rows.all_see(begin));
        let mut count = 0;
        for (tile, rows) in tiles() {
            if !is_seen {
                // The window of this layer ends within the split, or behind it.
                let state = scratch.split(rows.count, self.config);
                self.attend(simd, &rows, (split, next), count, state, scratch);
                self.keep(simd, tile, (item.kv_head, split), (state, 0), scratch);
            }
            rows.see(split, &mut scratch.visible[count..]);
            count += rows.count;
        }
        if !is_seen {
            return;
        }
        let state = scratch.split(count, self.config);
        state.reset(simd);
        let end = begin + item.shared;
        let copies = scratch.copies.as_mut_ptr();
        let tall = scratch.tall(0..count, self.config.head_dim);
        for (_, rows) in tiles().take(1) {
            let common = Split::new(&rows.context, begin, end, next, copies);
            let own = |rows: &TileRows<'_, E>| {
                Split::new(&rows.context, end, rows.positions(split).1, [std::ptr::null(); AHEAD], copies)
                    .behind(&common)
            };
            tall.score(simd, &common);
            if item.shared == SPLIT {
                tall.weigh(simd, &common, softcap, state);
                tall.gather(simd, &common, state.row(0));
                continue;
            }
            let mut first = 0;
            for (_, rows) in tiles() {
                let (own, tall) = (own(&rows), tall.part(first..first + rows.count));
                tall.score(simd, &own);
                tall.weigh(simd, &own, softcap, state.part(first));
                first += rows.count;
            }
            tall.gather(simd, &common, state.row(0));
            let mut first = 0;
            for (_, rows) in tiles() {
                tall.part(first..first + rows.count).gather(simd, &own(&rows), state.row(first));
                first += rows.count;
            }
        }
        let mut first = 0;
        for (tile, rows) in tiles() {
            self.keep(simd, tile, (item.kv_head, split), (state, first), scratch);
            first += rows.count;
        }
    }

    /// Takes a tile's state of one split, from row `first` of a state on.
    #[inline(always)]
    fn keep<S: Simd>(
        &self,
        simd: S,
        tile: &Tile,
        (kv_head, split): (usize, usize),
        (state, first): (State, usize),
        scratch: &mut Scratch,
    ) {
        if tile.num_pieces > 1 {
            self.partial(tile, kv_head, split).copy(state.part(first));
        }
        self.finish(simd, tile, kv_head, (state, first), scratch);
    }

    /// The state of a split of a tile that has several pieces.
    #[inline(always)]
    fn partial(&self, tile: &Tile, kv_head: usize, split: usize) -> State {
        let (rows, width) = (tile.rows(self.group), self.config.padded_head_dim());
        let first = tile.first_float + (kv_head * tile.num_splits() + split) * State::floats(rows, width);
        // SAFETY: `prepare` made room for the tile, and only this item has the states of its splits, until the tile's
        // counter has come to its end.
        unsafe { State::at(self.schedule.partials().add(first), rows, width) }
    }

    /// Ends an item's part of a tile. Its last piece writes the tile's rows; with several pieces, after it has merged their
    /// states, else from `state`, row `first` on.
    #[inline(always)]
    fn finish<S: Simd>(
        &self,
        simd: S,
        tile: &Tile,
        kv_head: usize,
        (state, first): (State, usize),
        scratch: &mut Scratch,
    ) {
        if tile.num_pieces == 1 {
            return self.write(simd, tile, kv_head, state.part(first));
        }
        let counter = &self.schedule.counters[tile.first_counter + kv_head];
        if (counter.fetch_add(1, Ordering::AcqRel) as usize) + 1 < tile.num_pieces {
            return;
        }
        // For the next layer.
        counter.store(0, Ordering::Relaxed);
        let total = scratch.total(tile.rows(self.group), self.config);
        total.reset(simd);
        for split in 0..tile.num_splits() {
            total.merge(simd, self.partial(tile, kv_head, split));
        }
        self.write(simd, tile, kv_head, total);
    }

    /// A tile's rows of one kv head, from their numerators and sums.
    #[inline(always)]
    fn write<S: Simd>(&self, simd: S, tile: &Tile, kv_head: usize, total: State) {
        let (group, head_dim) = (self.group, self.config.head_dim);
        let tokens = tile.tokens(self.sequences);
        for row in 0..tokens.len() * group {
            let (token, column) = (tokens.start + row / group, (kv_head * group + row % group) * head_dim);
            // SAFETY: `out` has the step's tokens and heads, and this one is this item's alone; `total` has the row.
            unsafe {
                let (numerator, factor) = (total.row(row), simd.splat(1.0 / *total.sum.add(row)));
                match self.out {
                    Out::Floats(out) => {
                        let out = out.pointer.add(token * out.stride + column);
                        for at in (0..head_dim).step_by(LANES) {
                            let value = simd.mul(simd.load(numerator.add(at)), factor);
                            match head_dim - at {
                                LANES.. => simd.store(out.add(at), value),
                                left => store_first(simd, out.add(at), value, left),
                            }
                        }
                    }
                    Out::Blocks(out) => {
                        for at in (0..head_dim).step_by(BLOCK) {
                            let first = simd.mul(simd.load(numerator.add(at)), factor);
                            let second = simd.mul(simd.load(numerator.add(at + LANES)), factor);
                            out.write(simd, token, (column + at) / BLOCK, [first, second]);
                        }
                    }
                }
            }
        }
    }
}

/// A tile's query rows of one kv head, rotated and multiplied by what makes their products with K scores.
#[inline(always)]
fn gather_queries<S: Simd, E>(simd: S, call: &Call<'_, E>, tile: &Tile, kv_head: usize, to: &mut [f32]) {
    let length = call.group * call.config.head_dim;
    let AttentionOptions { scale, softcap, .. } = call.options;
    // The soft cap's result is multiplied instead: see weigh.rs.
    let factor = if softcap > 0.0 { scale } else { scale * LOG2_E };
    for (token, to) in tile.tokens(call.sequences).zip(to.chunks_exact_mut(length)) {
        // SAFETY: `query` has the step's tokens and heads.
        let from = unsafe {
            let from = call.query.pointer.add(token * call.query.stride + kv_head * length);
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

/// Asks for the heads of a tile's tokens, which lie in a few lines of each token's row and come late otherwise.
#[inline(always)]
fn fetch_rows<S: Simd, E>(simd: S, call: &Call<'_, E>, tile: &Tile, kv_head: usize, rows: HeadRows) {
    let length = call.group * call.config.head_dim;
    for token in tile.tokens(call.sequences) {
        let heads = rows.pointer.wrapping_add(token * rows.stride + kv_head * length).cast_const();
        for at in (0..length).step_by(CACHE_LINE / size_of::<f32>()) {
            simd.prefetch_far(heads.wrapping_add(at).cast());
        }
    }
}
