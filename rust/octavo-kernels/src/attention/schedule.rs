//! A step's attention cut into work items, and the memory which the items share.
//!
//! An item is (sequence, kv head, tile of query tokens). Where that is so much work that threads would wait for it, as a
//! single long context in decode, its KV splits are shared out in pieces; whoever finishes the last piece of a tile
//! merges the splits in order.

use std::cell::UnsafeCell;
use std::cmp::Reverse;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::AtomicU32;

use crate::kv_cache::{KvCacheConfig, Sequence};
use crate::pool::lock;
use crate::simd::LANES;

use super::rows::MAX_ROWS;
use super::split::SPLIT;
use super::state::State;
use super::work::Scratch;

/// Query rows (tokens × heads of the group) that share a pass over K and V, at least one token. With as many their queries
/// and four strips of K fill the first-level cache; with fewer, more time goes into widening K and V.
const TARGET_ROWS: usize = 96;

/// The same where that makes too few items for the threads.
const FEWER_ROWS: usize = 48;

/// Items a thread, at least, where the work can be cut so far.
const ITEMS_OF_THREAD: usize = 16;

#[derive(Debug, Clone, Copy)]
pub(super) struct Item {
    pub(super) sequence: usize,
    pub(super) kv_head: usize,
    /// Tokens of the sequence's part of the step.
    pub(super) token_begin: usize,
    pub(super) token_end: usize,
    pub(super) split_begin: usize,
    pub(super) split_end: usize,
    /// Positions that its last token sees.
    pub(super) visible: usize,
    pub(super) join: Option<Join>,
}

impl Item {
    fn rows(&self, group: usize) -> usize {
        (self.token_end - self.token_begin) * group
    }

    /// About proportional to the time that it takes: a kernel reads a strip of K and V once for MAX_ROWS rows.
    fn cost(&self, group: usize) -> usize {
        let positions = self.visible.min(self.split_end * SPLIT) - self.split_begin * SPLIT;
        self.rows(group).div_ceil(MAX_ROWS) * positions.div_ceil(LANES)
    }

    /// In the step's columns.
    pub(super) fn tokens(&self, sequences: &[Sequence]) -> Range<usize> {
        let first = sequences[self.sequence].query_begin;
        first + self.token_begin..first + self.token_end
    }
}

/// Where an item that has some splits of a tile leaves their states.
#[derive(Debug, Clone, Copy)]
pub(super) struct Join {
    /// Counts the finished pieces.
    pub(super) counter: usize,
    pub(super) num_pieces: usize,
    pub(super) num_splits: usize,
    /// Where the state of split 0 lies in `partials`; the others follow.
    pub(super) first_float: usize,
}

/// The items of the current step for one group size, kept for all its layers.
pub(crate) struct Schedule {
    /// Query heads to a kv head; 0 before the step's first attention.
    group: usize,
    pub(super) items: Vec<Item>,
    pub(super) counters: Vec<AtomicU32>,
    partials: Vec<UnsafeCell<f32>>,
    /// One a thread.
    pub(super) scratch: Vec<Mutex<Scratch>>,
}

// SAFETY: the partial states are written by one item each, and read by the join's last one, ordered by its counter. The
// rest is Sync by itself.
unsafe impl Sync for Schedule {}

impl Schedule {
    pub(crate) fn new(threads: usize) -> Self {
        Self {
            group: 0,
            items: Vec::new(),
            counters: Vec::new(),
            partials: Vec::new(),
            scratch: (0..threads).map(|_| Mutex::default()).collect(),
        }
    }

    pub(crate) fn group(&self) -> usize {
        self.group
    }

    /// Memory for the softmax states of the items with a `join`.
    pub(super) fn partials(&self) -> *mut f32 {
        UnsafeCell::raw_get(self.partials.as_ptr())
    }

    /// The step has changed.
    pub(crate) fn invalidate(&mut self) {
        self.group = 0;
    }

    /// Makes the items, unless they are there.
    pub(super) fn prepare(&mut self, sequences: &[Sequence], config: &KvCacheConfig, group: usize) {
        if self.group == group {
            return;
        }
        self.group = group;
        self.items.clear();
        let threads = self.scratch.len();
        let rows = sequences.iter().map(|sequence| sequence.query_len).sum::<usize>() * config.num_kv_heads * group;
        let is_much = rows >= TARGET_ROWS * threads * ITEMS_OF_THREAD;
        let tile = (if is_much { TARGET_ROWS } else { FEWER_ROWS } / group).max(1);
        let mut total_cost = 0;
        for (index, sequence) in sequences.iter().enumerate() {
            for token_begin in (0..sequence.query_len).step_by(tile) {
                let token_end = sequence.query_len.min(token_begin + tile);
                let visible = sequence.context + token_end;
                for kv_head in 0..config.num_kv_heads {
                    let item = Item {
                        sequence: index,
                        kv_head,
                        token_begin,
                        token_end,
                        split_begin: 0,
                        split_end: visible.div_ceil(SPLIT),
                        visible,
                        join: None,
                    };
                    total_cost += item.cost(group);
                    self.items.push(item);
                }
            }
        }
        if threads > 1 {
            self.cut(total_cost / (threads * ITEMS_OF_THREAD), config, group);
        }
        // The longest first, so that the threads finish together; but a sequence's tiles of one head follow each other,
        // since their K and V are the same and stay in the second-level cache.
        self.items.sort_by_key(|item| {
            let Sequence { context, query_len, .. } = sequences[item.sequence];
            let longest = (query_len.min(tile) * group).div_ceil(MAX_ROWS) * (context + query_len).div_ceil(LANES);
            (Reverse(longest), item.sequence, item.kv_head, Reverse(item.cost(group)))
        });
        for scratch in &self.scratch {
            lock(scratch).fit(tile * group, config);
        }
    }

    /// Shares out the splits of items above a cost.
    fn cut(&mut self, largest_cost: usize, config: &KvCacheConfig, group: usize) {
        let (mut num_joins, mut num_floats) = (0, 0);
        for index in 0..self.items.len() {
            let item = self.items[index];
            let (num_splits, rows) = (item.split_end, item.rows(group));
            let splits_of_piece = (largest_cost * num_splits / item.cost(group)).max(1);
            if splits_of_piece >= num_splits {
                continue;
            }
            let num_pieces = num_splits.div_ceil(splits_of_piece);
            let join = Some(Join { counter: num_joins, num_pieces, num_splits, first_float: num_floats });
            let pieces = (0..num_splits).step_by(splits_of_piece).map(|split_begin| Item {
                split_begin,
                split_end: num_splits.min(split_begin + splits_of_piece),
                join,
                ..item
            });
            let (first, others) = (pieces.clone().next(), pieces.skip(1));
            self.items.extend(others);
            self.items[index] = first.unwrap_or(item);
            num_joins += 1;
            num_floats += num_splits * State::floats(rows, config.padded_head_dim());
        }
        self.counters.resize_with(num_joins.max(self.counters.len()), AtomicU32::default);
        self.partials.resize_with(num_floats.max(self.partials.len()), UnsafeCell::default);
    }
}
