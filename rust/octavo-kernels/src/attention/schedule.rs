//! A step's attention cut into work items, and the memory which the items share.
//!
//! An item is (sequence, kv head, tile of query tokens). Where a sequence has only one query tile, as in decode, its
//! KV splits are items too, so that a single long context keeps every thread busy; whoever finishes the last split of
//! a tile merges them in order.

use std::cell::UnsafeCell;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::AtomicU32;

use crate::kv_cache::Sequence;

use super::work::Scratch;

/// Positions of KV whose softmax state is computed on its own and then merged: part of the definition of the result.
pub(super) const SPLIT: usize = 256;

/// Query rows (tokens × heads of the group) that share a pass over K and V, at least one token.
const TARGET_ROWS: usize = 48;

#[derive(Debug, Clone, Copy)]
pub(super) struct Item {
    pub(super) sequence: usize,
    pub(super) kv_head: usize,
    /// Tokens of the sequence's part of the step.
    pub(super) token_begin: usize,
    pub(super) token_end: usize,
    pub(super) split_begin: usize,
    pub(super) split_end: usize,
    pub(super) join: Option<Join>,
}

impl Item {
    /// In the step's columns.
    pub(super) fn tokens(&self, sequences: &[Sequence]) -> Range<usize> {
        let first = sequences[self.sequence].query_begin;
        first + self.token_begin..first + self.token_end
    }
}

/// Where an item that is one split of several leaves its state.
#[derive(Debug, Clone, Copy)]
pub(super) struct Join {
    /// Counts the finished splits.
    pub(super) counter: usize,
    pub(super) num_splits: usize,
    /// Row of `partials` for split 0.
    pub(super) first_row: usize,
}

/// The items of the current step for one group size, kept for all its layers.
pub(crate) struct Schedule {
    /// Query heads to a kv head; 0 before the step's first attention.
    group: usize,
    pub(super) items: Vec<Item>,
    pub(super) counters: Vec<AtomicU32>,
    /// [row, padded head_dim + 2]
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

    /// Makes the items, unless they are there. `state_len` is the number of floats in the state of a row.
    pub(super) fn prepare(&mut self, sequences: &[Sequence], num_kv_heads: usize, group: usize, state_len: usize) {
        if self.group == group {
            return;
        }
        self.group = group;
        self.items.clear();
        let tile = (TARGET_ROWS / group).max(1);
        let (mut num_joins, mut num_rows) = (0, 0);
        for (index, sequence) in sequences.iter().enumerate() {
            for token_begin in (0..sequence.query_len).step_by(tile) {
                let token_end = sequence.query_len.min(token_begin + tile);
                let num_splits = (sequence.context + token_end).div_ceil(SPLIT);
                let splits_apart = sequence.query_len <= tile && num_splits > 1;
                for kv_head in 0..num_kv_heads {
                    let whole = Item {
                        sequence: index,
                        kv_head,
                        token_begin,
                        token_end,
                        split_begin: 0,
                        split_end: num_splits,
                        join: None,
                    };
                    if !splits_apart {
                        self.items.push(whole);
                        continue;
                    }
                    let join = Some(Join { counter: num_joins, num_splits, first_row: num_rows });
                    self.items.extend((0..num_splits).map(|split| Item {
                        split_begin: split,
                        split_end: split + 1,
                        join,
                        ..whole
                    }));
                    num_joins += 1;
                    num_rows += num_splits * (token_end - token_begin) * group;
                }
            }
        }
        // The longest first, so that the threads finish together.
        self.items.sort_by_key(|item| {
            std::cmp::Reverse((item.token_end - item.token_begin) * (item.split_end - item.split_begin))
        });
        self.counters.resize_with(num_joins.max(self.counters.len()), AtomicU32::default);
        let partials = (num_rows * state_len).max(self.partials.len());
        self.partials.resize_with(partials, UnsafeCell::default);
    }
}
