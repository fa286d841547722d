//! A step's attention cut into work items, and the memory which the items share.
//!
//! A tile is some query tokens of a sequence, and an item the splits that it has to attend to, for one kv head. Where that
//! is so much work that threads would wait for it, as a single long context in decode, its splits are shared out in
//! pieces. Splits that several sequences have in common are pieces too: one item takes them for all these tiles at once.
//! Whoever finishes the last piece of a tile merges the splits in order.

use std::cell::UnsafeCell;
use std::cmp::Reverse;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::AtomicU32;

use crate::kv_cache::{KvCacheConfig, Sequence};
use crate::pool::lock;
use crate::simd::LANES;

use super::rows::MAX_ROWS;
use super::sharing::{Extent, Sharing, Table};
use super::split::{SPLIT, STRIPS};
use super::state::State;
use super::work::Scratch;

/// Query rows (tokens × heads of the group) that share a pass over K and V, at least one token. With as many their queries
/// and four strips of K fill the first-level cache; with fewer, more time goes into widening K and V.
const TARGET_ROWS: usize = 96;

/// The same where that makes too few items for the threads.
const FEWER_ROWS: usize = 48;

/// Rows of a tile, at most, that shares a pass over K and V with others; and of such a pass, at least, if there are as many.
const SHARING_ROWS: usize = 12;

/// Items a thread, at least, where the work can be cut so far.
const ITEMS_OF_THREAD: usize = 16;

/// Some query tokens of a sequence.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tile {
    pub(super) sequence: usize,
    /// Tokens of the sequence's part of the step.
    pub(super) token_begin: usize,
    pub(super) token_end: usize,
    /// Positions that its last token sees.
    pub(super) visible: usize,
    /// Items of a kv head that have a part of it; with several, they leave the state of every split in `partials`.
    pub(super) num_pieces: usize,
    /// The counter of finished pieces of kv head 0; those of the others follow.
    pub(super) first_counter: usize,
    /// Where the state of kv head 0 and split 0 lies in `partials`; other splits follow, then other heads.
    pub(super) first_float: usize,
    /// The first split that no item has yet.
    next_split: usize,
}

impl Tile {
    pub(super) fn rows(&self, group: usize) -> usize {
        (self.token_end - self.token_begin) * group
    }

    pub(super) fn num_splits(&self) -> usize {
        self.visible.div_ceil(SPLIT)
    }

    /// In the step's columns.
    pub(super) fn tokens(&self, sequences: &[Sequence]) -> Range<usize> {
        let first = sequences[self.sequence].query_begin;
        first + self.token_begin..first + self.token_end
    }

    /// About proportional to the time that some splits take: a kernel reads a strip of K and V once for MAX_ROWS rows.
    fn cost(&self, group: usize, splits: Range<usize>) -> usize {
        let positions = self.visible.min(splits.end * SPLIT) - splits.start * SPLIT;
        self.rows(group).div_ceil(MAX_ROWS) * positions.div_ceil(LANES)
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Item {
    pub(super) kv_head: usize,
    /// In `members`.
    first_member: usize,
    num_members: usize,
    pub(super) split_begin: usize,
    /// With several tiles, the split after the first.
    pub(super) split_end: usize,
    /// Positions of the split that lie in the same blocks for all tiles, and before their tokens: whole strips.
    pub(super) shared: usize,
}

/// The items of the current step for one group size, kept for all its layers.
pub(crate) struct Schedule {
    /// Query heads to a kv head; 0 before the step's first attention.
    group: usize,
    tiles: Vec<Tile>,
    /// Tiles of each item; first every tile once, for those that have one.
    members: Vec<u32>,
    pub(super) items: Vec<Item>,
    sharing: Sharing,
    pub(super) counters: Vec<AtomicU32>,
    partials: Vec<UnsafeCell<f32>>,
    /// One a thread, which holds it for a whole call.
    pub(super) scratch: Vec<Mutex<Scratch>>,
}

// SAFETY: `partials` is written through a pointer only, each tile's part by its items, who hand it over by a counter; the
// rest is Sync by itself.
unsafe impl Sync for Schedule {}

impl Schedule {
    pub(crate) fn new(threads: usize) -> Self {
        Self {
            group: 0,
            tiles: Vec::new(),
            members: Vec::new(),
            items: Vec::new(),
            sharing: Sharing::default(),
            counters: Vec::new(),
            partials: Vec::new(),
            scratch: (0..threads).map(|_| Mutex::default()).collect(),
        }
    }

    pub(crate) fn group(&self) -> usize {
        self.group
    }

    /// Memory for the softmax states of tiles with several pieces.
    pub(super) fn partials(&self) -> *mut f32 {
        UnsafeCell::raw_get(self.partials.as_ptr())
    }

    /// An item's tiles.
    #[inline]
    pub(super) fn tiles(&self, item: &Item) -> impl Iterator<Item = &Tile> + Clone {
        self.members[item.first_member..][..item.num_members].iter().map(|&tile| &self.tiles[tile as usize])
    }

    /// The step has changed.
    pub(crate) fn invalidate(&mut self) {
        self.group = 0;
    }

    /// Makes the items, unless they are there.
    pub(super) fn prepare(&mut self, sequences: &[Sequence], table: &[u32], config: &KvCacheConfig, group: usize) {
        if self.group == group {
            return;
        }
        self.group = group;
        self.tiles.clear();
        self.items.clear();
        let threads = self.scratch.len();
        let rows = sequences.iter().map(|sequence| sequence.query_len).sum::<usize>() * config.num_kv_heads * group;
        let is_much = rows >= TARGET_ROWS * threads * ITEMS_OF_THREAD;
        let tokens = (if is_much { TARGET_ROWS } else { FEWER_ROWS } / group).max(1);
        for (index, sequence) in sequences.iter().enumerate() {
            for token_begin in (0..sequence.query_len).step_by(tokens) {
                let token_end = sequence.query_len.min(token_begin + tokens);
                self.tiles.push(Tile {
                    sequence: index,
                    token_begin,
                    token_end,
                    visible: sequence.context + token_end,
                    num_pieces: 0,
                    first_counter: 0,
                    first_float: 0,
                    next_split: 0,
                });
            }
        }
        self.members.clear();
        self.members.extend(0..self.tiles.len() as u32);
        let cost: usize = self.tiles.iter().map(|tile| tile.cost(group, 0..tile.num_splits())).sum();
        let largest_cost = cost * config.num_kv_heads / (threads * ITEMS_OF_THREAD);
        self.share(&Table { blocks: table, sequences, config }, largest_cost);
        for tile in 0..self.tiles.len() {
            self.take_alone(tile, self.tiles[tile].num_splits(), largest_cost, config);
        }
        self.make_room(config);
        self.sort(sequences, tokens);
        for scratch in &self.scratch {
            lock(scratch).fit((tokens * group).max(TARGET_ROWS), config);
        }
    }

    /// Makes items of the splits that begin in the same blocks for several tiles of few rows.
    fn share(&mut self, table: &Table<'_>, largest_cost: usize) {
        let group = self.group;
        let is_small = |tile: &Tile| tile.rows(group) <= SHARING_ROWS;
        if !Sharing::is_possible(table) || self.tiles.iter().filter(|tile| is_small(tile)).count() < 2 {
            return;
        }
        let mut sharing = std::mem::take(&mut self.sharing);
        let num_splits = self.tiles.iter().filter(|tile| is_small(tile)).map(Tile::num_splits).max().unwrap_or(0);
        for split in 0..num_splits {
            for extent in [Extent::Whole, Extent::Part] {
                let is_free = |tile: &Tile| is_small(tile) && tile.next_split <= split && split < tile.num_splits();
                sharing.find(table, split, extent, &self.tiles, is_free);
                for group in sharing.groups() {
                    self.take_together(sharing.members(group), group.shared, split, largest_cost, table.config);
                }
            }
        }
        self.sharing = sharing;
    }

    /// Makes items of one split for all these tiles.
    fn take_together(
        &mut self,
        tiles: impl Iterator<Item = usize> + Clone,
        shared: usize,
        split: usize,
        largest_cost: usize,
        config: &KvCacheConfig,
    ) {
        let most_rows = (largest_cost / STRIPS * MAX_ROWS).clamp(SHARING_ROWS, TARGET_ROWS);
        let rows: usize = tiles.clone().map(|tile| self.tiles[tile].rows(self.group)).sum();
        let enough_rows = rows.div_ceil(rows.div_ceil(most_rows));
        let (mut rows_of_item, mut first_member) = (0, self.members.len());
        for tile in tiles {
            self.take_alone(tile, split, largest_cost, config);
            let rows = self.tiles[tile].rows(self.group);
            if rows_of_item + rows > enough_rows {
                self.add(first_member..self.members.len(), split..split + 1, shared, config);
                (rows_of_item, first_member) = (0, self.members.len());
            }
            rows_of_item += rows;
            self.members.push(tile as u32);
            self.tiles[tile].next_split = split + 1;
        }
        self.add(first_member..self.members.len(), split..split + 1, shared, config);
    }

    /// Makes items of a tile's next splits, up to `end`: several where they cost much.
    fn take_alone(&mut self, tile: usize, end: usize, largest_cost: usize, config: &KvCacheConfig) {
        let splits = self.tiles[tile].next_split..end;
        if splits.is_empty() {
            return;
        }
        let mut splits_of_item = splits.len();
        if self.scratch.len() > 1 {
            let cost = self.tiles[tile].cost(self.group, splits.clone());
            splits_of_item = (largest_cost * splits.len() / cost).clamp(1, splits.len());
        }
        for begin in splits.step_by(splits_of_item) {
            self.add(tile..tile + 1, begin..end.min(begin + splits_of_item), 0, config);
        }
        self.tiles[tile].next_split = end;
    }

    /// An item for each kv head.
    fn add(&mut self, members: Range<usize>, splits: Range<usize>, shared: usize, config: &KvCacheConfig) {
        for &tile in &self.members[members.clone()] {
            self.tiles[tile as usize].num_pieces += 1;
        }
        self.items.extend((0..config.num_kv_heads).map(|kv_head| Item {
            kv_head,
            first_member: members.start,
            num_members: members.len(),
            split_begin: splits.start,
            split_end: splits.end,
            shared,
        }));
    }

    /// Gives tiles with several pieces their counters and states.
    fn make_room(&mut self, config: &KvCacheConfig) {
        let (mut num_counters, mut num_floats) = (0, 0);
        for tile in self.tiles.iter_mut().filter(|tile| tile.num_pieces > 1) {
            (tile.first_counter, tile.first_float) = (num_counters, num_floats);
            num_counters += config.num_kv_heads;
            let floats = State::floats(tile.rows(self.group), config.padded_head_dim());
            num_floats += config.num_kv_heads * tile.num_splits() * floats;
        }
        self.counters.resize_with(num_counters.max(self.counters.len()), AtomicU32::default);
        self.partials.resize_with(num_floats.max(self.partials.len()), UnsafeCell::default);
    }

    /// What several sequences share comes first, then the longest, so that the threads finish together; but a sequence's
    /// tiles of one head follow each other, since their K and V are the same and stay in the second-level cache.
    fn sort(&mut self, sequences: &[Sequence], tokens: usize) {
        let Self { group, tiles, members, .. } = self;
        self.items.sort_unstable_by_key(|item| {
            let tile = &tiles[members[item.first_member] as usize];
            let Sequence { context, query_len, .. } = sequences[tile.sequence];
            let rows = query_len.min(tokens) * *group;
            let longest = rows.div_ceil(MAX_ROWS) * (context + query_len).div_ceil(LANES);
            let longest = if item.num_members > 1 { usize::MAX } else { longest };
            let cost = tile.cost(*group, item.split_begin..item.split_end);
            (Reverse(longest), tile.sequence, item.kv_head, Reverse(cost), item.split_begin)
        });
    }
}
