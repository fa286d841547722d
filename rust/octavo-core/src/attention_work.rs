//! The lists of work that a GPU's attention takes: which keys meet which queries.
//!
//! cuda/attention.cuh says what an item and a merge are. Entries with one query token go to the list for decode, others
//! to that for prefill, in tiles of rows; a row is a query token and a query head of a KV group, tokens outermost.
//!
//! A list with fewer items than the GPU takes at once would leave a part of it idle. There the keys are split, into the
//! smallest chunk for which all items still run at once. Decoding, which is bound by how evenly the GPU reads, is split
//! further where that shortens the last round or a long item's tail. All tiles of an entry split at the same keys, and part p of
//! its query token i has slot p · (its query tokens) + i, so that a token whose heads lie in two tiles has one entry in
//! the list of merges. The parts of a token are those that begin at its position or before: no item is without keys,
//! and no merge reads a slot that nothing wrote.

use std::cmp::Reverse;

use crate::arena::{DeviceView, ItemColumns, MergeColumns};
use crate::config::DeviceWork;
use crate::plan::Entry;

/// Chunks are multiples of this: whole tiles of keys, whatever the kernel.
const CHUNK_STEP: u32 = 64;
/// Below this a part takes less time than its merging.
const MIN_CHUNK: u32 = 128;
/// What a part of decode costs beside its keys, in keys: its start, and its part of the merge. An estimate.
const PART_COST: u32 = 32;
/// Items of decode that splitting adds, for each that runs at once, at most.
const MOST_ADDED: u32 = 4;
/// Parts that the longest item is tried in.
const MOST_PARTS: u32 = 8;
/// Query heads of a group that a unit of decode takes: the rows of one product.
const DECODE_HEADS: u32 = 16;

impl DeviceWork {
    /// Query heads that share a KV head.
    fn group(&self) -> u32 {
        self.num_heads / self.num_kv_heads
    }

    /// Items of decode that run at once.
    fn decode_items_at_once(&self) -> u32 {
        self.decode_units / (self.num_kv_heads * self.group().div_ceil(DECODE_HEADS))
    }

    /// Items of prefill that run at once.
    fn prefill_items_at_once(&self) -> u32 {
        self.prefill_units / self.num_kv_heads
    }

    pub(crate) fn max_decode_items(&self, max_requests: usize) -> usize {
        max_requests + self.max_added_decode_items()
    }

    fn max_added_decode_items(&self) -> usize {
        (MOST_ADDED * self.decode_items_at_once()) as usize
    }

    pub(crate) fn max_prefill_items(&self, max_tokens: usize, max_requests: usize) -> usize {
        // The last tile of each entry may be incomplete.
        let num_tiles = max_tokens * self.group() as usize / self.prefill_tile_rows as usize + max_requests;
        num_tiles.max(self.prefill_items_at_once() as usize)
    }

    /// Query tokens whose keys are split in one step, at most.
    pub(crate) fn max_merges(&self, max_tokens: usize) -> usize {
        let prefill_rows = self.prefill_items_at_once() as usize * self.prefill_tile_rows as usize;
        max_tokens.min(self.max_added_decode_items() + prefill_rows / self.group() as usize)
    }

    /// Slots for parts in one step, at most.
    ///
    /// A list is only split so far. Decode has one slot for an item of a split entry: for each that is added, and the
    /// first of each such entry. For prefill let an entry have n query tokens behind c others, in tiles of q tokens,
    /// and chunks of C keys. Its slots are n · ⌈(c + n) / C⌉, at most n (c + n) / C + n. Its tiles end at q, 2 q, … and
    /// n tokens, so its items are at least (n c + n² / 2) / (q C), and n / q. The slots are then at most 3 q times the
    /// items.
    pub fn max_slots(&self) -> usize {
        let prefill_rows = u64::from(self.prefill_items_at_once()) * u64::from(self.prefill_tile_rows);
        2 * self.max_added_decode_items() + (3 * prefill_rows / u64::from(self.group())) as usize
    }
}

/// An entry of the step.
#[derive(Clone, Copy)]
struct Query {
    entry: u32,
    /// Of the step's tokens.
    first_token: u32,
    num_tokens: u32,
    /// Tokens before its first.
    context: u32,
}

impl Query {
    /// First row of each tile, and where its keys end: no row sees a key behind its own token.
    fn tiles(self, group: u32, tile_rows: u32) -> impl Iterator<Item = (u32, u32)> {
        let num_rows = self.num_tokens * group;
        (0..num_rows).step_by(tile_rows as usize).map(move |first_row| {
            let last_row = num_rows.min(first_row + tile_rows) - 1;
            (first_row, self.context + last_row / group + 1)
        })
    }
}

struct Item {
    entry: u32,
    first_row: u32,
    kv_begin: u32,
    kv_end: u32,
    /// -1: the item has all keys of its rows.
    slot: i32,
}

/// The list of merges as it grows, over both lists of items.
struct Merges<'a, 'b> {
    columns: &'a mut MergeColumns<'b>,
    count: usize,
    num_slots: u32,
}

impl Merges<'_, '_> {
    /// Slots for all parts of an entry, which its tokens merge; the first of them.
    fn add(&mut self, query: Query, chunk: u32) -> u32 {
        let first_slot = self.num_slots;
        for token in 0..query.num_tokens {
            self.columns.token[self.count] = (query.first_token + token) as i32;
            self.columns.first_slot[self.count] = (first_slot + token) as i32;
            self.columns.num_slots[self.count] = ((query.context + token) / chunk + 1) as i32;
            self.columns.slot_stride[self.count] = query.num_tokens as i32;
            self.count += 1;
        }
        self.num_slots += query.num_tokens * (query.context + query.num_tokens).div_ceil(chunk);
        first_slot
    }
}

/// How many elements the lists of a step have.
pub(crate) struct WorkCounts {
    pub decode_items: usize,
    pub prefill_items: usize,
    pub merges: usize,
}

/// Makes the lists of each step. All that it holds from one to the next is memory.
pub(crate) struct WorkPlanner {
    work: DeviceWork,
    queries: Vec<Query>,
    /// Where the keys of each tile end.
    ends: Vec<u32>,
    items: Vec<Item>,
}

impl WorkPlanner {
    pub fn new(work: DeviceWork) -> Self {
        WorkPlanner { work, queries: Vec::new(), ends: Vec::new(), items: Vec::new() }
    }

    /// Writes the lists for the entries of a step.
    pub fn fill(&mut self, entries: &[Entry], view: &mut DeviceView<'_>) -> WorkCounts {
        let work = self.work;
        let mut merges = Merges { columns: &mut view.merges, count: 0, num_slots: 0 };
        let at_once = work.decode_items_at_once();
        self.plan(entries, |num_tokens| num_tokens == 1, work.group(), |ends| decode_chunk(ends, at_once), &mut merges);
        let decode_items = self.write(&mut view.decode);
        let (tile_rows, at_once) = (work.prefill_tile_rows, work.prefill_items_at_once());
        self.plan(entries, |num_tokens| num_tokens > 1, tile_rows, |ends| chunk_of(ends, at_once), &mut merges);
        let prefill_items = self.write(&mut view.prefill);
        debug_assert!(merges.num_slots as usize <= work.max_slots());
        WorkCounts { decode_items, prefill_items, merges: merges.count }
    }

    /// Makes the items of the entries whose number of query tokens `belongs` to the list. `choose` gives the chunk for
    /// where the keys of the tiles end.
    fn plan(
        &mut self,
        entries: &[Entry],
        belongs: impl Fn(u32) -> bool,
        tile_rows: u32,
        choose: impl Fn(&[u32]) -> u32,
        merges: &mut Merges<'_, '_>,
    ) {
        let group = self.work.group();
        self.queries.clear();
        self.ends.clear();
        self.items.clear();
        let mut first_token = 0;
        for (entry, &Entry { start, count, .. }) in (0..).zip(entries) {
            if belongs(count) {
                let query = Query { entry, first_token, num_tokens: count, context: start };
                self.queries.push(query);
                self.ends.extend(query.tiles(group, tile_rows).map(|(_, end)| end));
            }
            first_token += count;
        }
        let chunk = choose(&self.ends);
        for &query in &self.queries {
            let is_split = query.context + query.num_tokens > chunk;
            let first_slot = if is_split { merges.add(query, chunk) } else { 0 };
            for (first_row, end) in query.tiles(group, tile_rows) {
                for (part, kv_begin) in (0..).zip((0..end).step_by(chunk as usize)) {
                    let slot = if is_split { (first_slot + part * query.num_tokens) as i32 } else { -1 };
                    let kv_end = end.min(kv_begin.saturating_add(chunk));
                    self.items.push(Item { entry: query.entry, first_row, kv_begin, kv_end, slot });
                }
            }
        }
        // Blocks take items in order: a long one that came last would run alone.
        self.items.sort_unstable_by_key(|item| Reverse(item.kv_end - item.kv_begin));
    }

    fn write(&self, columns: &mut ItemColumns<'_>) -> usize {
        for (index, item) in self.items.iter().enumerate() {
            columns.entry[index] = item.entry as i32;
            columns.kv_begin[index] = item.kv_begin as i32;
            columns.kv_end[index] = item.kv_end as i32;
            columns.slot[index] = item.slot;
        }
        if let Some(first_row) = &mut columns.first_row {
            for (place, item) in first_row.iter_mut().zip(&self.items) {
                *place = item.first_row as i32;
            }
        }
        self.items.len()
    }
}

/// The chunk of keys by which decoding is done first, by estimate; `u32::MAX`: whole.
fn decode_chunk(ends: &[u32], at_once: u32) -> u32 {
    let longest = ends.iter().copied().max().unwrap_or(0);
    let (mut best, mut least) = (u32::MAX, estimate(ends, longest, at_once));
    let even = (2..=MOST_PARTS).map(|parts| longest.div_ceil(parts).next_multiple_of(CHUNK_STEP).max(MIN_CHUNK));
    for chunk in even.chain([chunk_of(ends, at_once)]) {
        if chunk >= longest {
            continue;
        }
        let num_items: u32 = ends.iter().map(|end| end.div_ceil(chunk)).sum();
        let cost = estimate(ends, chunk, at_once);
        // Parts that gain little are not worth what the estimate does not see.
        if num_items - ends.len() as u32 <= MOST_ADDED * at_once && cost + cost / 16 < least {
            (best, least) = (chunk, cost);
        }
    }
    best
}

/// How long the items of this chunk take, in keys: blocks of the GPU take them by rounds, the whole chunks first.
fn estimate(ends: &[u32], chunk: u32, at_once: u32) -> u64 {
    let (mut num_whole, mut num_rests, mut rest_keys, mut longest_rest) = (0, 0, 0, 0);
    for &end in ends {
        let rest = end % chunk;
        num_whole += u64::from(end / chunk);
        num_rests += u64::from(rest > 0);
        rest_keys += u64::from(rest);
        longest_rest = longest_rest.max(u64::from(rest));
    }
    let rounds = |num_items: u64| num_items.div_ceil(u64::from(at_once.max(1)));
    let (whole, all) = (rounds(num_whole), rounds(num_whole + num_rests));
    let first_rest = if whole == 0 { longest_rest } else { 0 };
    let other_rests = (all - whole).saturating_sub(u64::from(whole == 0)) * rest_keys / num_rests.max(1);
    whole * u64::from(chunk) + first_rest + other_rests + all * u64::from(PART_COST)
}

/// The smallest chunk of keys for which all items run at once; `u32::MAX` where even whole tiles are too many.
fn chunk_of(ends: &[u32], at_once: u32) -> u32 {
    if ends.len() >= at_once as usize {
        return u32::MAX;
    }
    let fits = |chunk: u32| ends.iter().map(|end| end.div_ceil(chunk)).sum::<u32>() <= at_once;
    let longest = ends.iter().copied().max().unwrap_or(0);
    // Chunks in units of CHUNK_STEP: `low` is the least that may fit, and `high` does fit.
    let (mut low, mut high) = (MIN_CHUNK / CHUNK_STEP, longest.max(MIN_CHUNK).div_ceil(CHUNK_STEP));
    while low < high {
        let middle = (low + high) / 2;
        if fits(middle * CHUNK_STEP) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low * CHUNK_STEP
}
