//! The positions of one KV split, as the kernels read them: in strips of 16, and what to fetch ahead.

use crate::kv_cache::{KvElement, Pages};
use crate::simd::{LANES, prefetch};

use super::widen::TOGETHER;

/// Positions of KV whose softmax state is computed on its own and then merged: part of the definition of the result.
pub(super) const SPLIT: usize = 256;

pub(super) const STRIPS: usize = SPLIT / LANES;

/// Strips of K or V between what is read and what is fetched. With pages of 4 KiB, 8 KiB: 300 ns of one core's reads.
pub(super) const AHEAD: usize = 4;

/// Sixteen neighbouring positions.
#[derive(Clone, Copy)]
pub(super) struct Strip<E> {
    /// [head_dim, key_stride], of which the first 16 columns.
    pub(super) keys: *const E,
    /// [16, padded head_dim]
    pub(super) values: *const E,
    /// [16] each, where the elements have scales.
    pub(super) key_scales: *const f32,
    pub(super) value_scales: *const f32,
}

impl<E> Strip<E> {
    const NOWHERE: Self = Self {
        keys: std::ptr::null(),
        values: std::ptr::null(),
        key_scales: std::ptr::null(),
        value_scales: std::ptr::null(),
    };
}

/// One kv head of one sequence.
pub(super) struct Context<'a, E> {
    pub(super) pages: Pages<E>,
    pub(super) head: usize,
    /// The sequence's row of the block table.
    pub(super) blocks: &'a [u32],
}

pub(super) struct Split<E> {
    strips: [Strip<E>; STRIPS],
    pub(super) key_stride: usize,
    pub(super) head_dim: usize,
    pub(super) width: usize,
    /// Strips that hold a visible position.
    pub(super) first: usize,
    pub(super) last: usize,
    /// Where K of those strips lies, then V of them, then what is read after the split.
    reads: [*const u8; 2 * STRIPS + AHEAD],
}

impl<E: KvElement> Context<'_, E> {
    /// Where to read K of the strip at `position`, a multiple of 16: each strip of a page fetches its share of it.
    #[inline(always)]
    fn key_bytes(&self, position: usize) -> *const u8 {
        let (block_size, head_dim) = (self.pages.block_size, self.pages.head_dim);
        let keys = self.pages.keys(self.blocks[position / block_size] as usize, self.head);
        keys.wrapping_add(position % block_size / LANES * LANES * head_dim).cast_const().cast()
    }

    /// The first reads of strips from `position` on, a multiple of 16, before `end`.
    #[inline(always)]
    pub(super) fn first_reads(&self, position: usize, end: usize) -> [*const u8; AHEAD] {
        let mut reads = [std::ptr::null(); AHEAD];
        for (index, read) in reads.iter_mut().enumerate() {
            if position + index * LANES < end {
                *read = self.key_bytes(position + index * LANES);
            }
        }
        reads
    }

    #[inline(always)]
    fn strip(&self, position: usize) -> Strip<E> {
        let block_size = self.pages.block_size;
        let (block, offset) = (self.blocks[position / block_size] as usize, position % block_size);
        let scales = self.pages.scales(block, self.head).wrapping_add(offset).cast_const();
        Strip {
            keys: self.pages.keys(block, self.head).wrapping_add(offset),
            values: self.pages.values(block, self.head).wrapping_add(offset * self.pages.width),
            key_scales: scales,
            value_scales: scales.wrapping_add(block_size),
        }
    }

    /// Copies positions `begin..end` to where a strip would have them: for block sizes that are no multiple of 16.
    fn copy(&self, begin: usize, end: usize, strips: Pages<E>) {
        let (block_size, head_dim, width) = (self.pages.block_size, self.pages.head_dim, self.pages.width);
        for position in begin..end {
            let (strip, lane) = (position % SPLIT / LANES, position % LANES);
            let from = self.strip(position);
            // SAFETY: the table holds valid blocks; `strips` has room for a split.
            unsafe {
                let keys = strips.keys(strip, 0).add(lane);
                for dimension in 0..head_dim {
                    *keys.add(dimension * LANES) = *from.keys.add(dimension * block_size);
                }
                std::ptr::copy_nonoverlapping(from.values, strips.values(strip, 0).add(lane * width), width);
                if E::SCALED {
                    let scales = strips.scales(strip, 0).add(lane);
                    *scales = *from.key_scales;
                    *scales.add(LANES) = *from.value_scales;
                }
            }
        }
    }
}

impl<E: KvElement> Split<E> {
    /// The strips with positions `begin..end`, which lie in one split; `next` is read after it. `copies` has room for a
    /// split where the block size is no multiple of 16.
    #[inline(always)]
    pub(super) fn new(
        context: &Context<'_, E>,
        begin: usize,
        end: usize,
        next: [*const u8; AHEAD],
        copies: *mut f32,
    ) -> Self {
        let pages = context.pages;
        let in_place = pages.block_size.is_multiple_of(LANES);
        let local = Context { pages: pages.strips(copies.cast()), head: 0, blocks: &COUNTING };
        let split_begin = begin / SPLIT * SPLIT;
        let source = if in_place { context } else { &local };
        if !in_place {
            context.copy(begin, end, local.pages);
        }
        let (first, last) = ((begin - split_begin) / LANES, (end - split_begin).div_ceil(LANES));
        let mut strips = [Strip::NOWHERE; STRIPS];
        let mut reads = [std::ptr::null(); 2 * STRIPS + AHEAD];
        for index in first..last {
            let position = if in_place { split_begin } else { 0 } + index * LANES;
            strips[index] = source.strip(position);
            reads[index - first] = source.key_bytes(position);
            reads[last + index - 2 * first] = strips[index].values.cast();
            if E::SCALED {
                prefetch(strips[index].key_scales.cast());
                prefetch(strips[index].value_scales.cast());
            }
        }
        reads[2 * (last - first)..][..AHEAD].copy_from_slice(&next);
        Self {
            strips,
            key_stride: source.pages.block_size,
            head_dim: pages.head_dim,
            width: pages.width,
            first,
            last,
            reads,
        }
    }

    /// The same split, with the strips before its first from another.
    #[inline(always)]
    pub(super) fn behind(mut self, other: &Self) -> Self {
        self.strips[..self.first].copy_from_slice(&other.strips[..self.first]);
        self
    }

    #[inline(always)]
    pub(super) fn strip(&self, index: usize) -> &Strip<E> {
        &self.strips[index]
    }

    /// What to fetch while K of a strip is read.
    #[inline(always)]
    pub(super) fn after_keys(&self, strip: usize) -> *const u8 {
        self.reads[strip - self.first + AHEAD]
    }

    /// What to fetch while V of a strip is read.
    #[inline(always)]
    pub(super) fn after_values(&self, strip: usize) -> *const u8 {
        self.reads[self.last - self.first + strip - self.first + AHEAD]
    }
}

impl Split<f32> {
    /// The first `count` strips of K or of V as widen.rs leaves them at `from`.
    #[inline(always)]
    pub(super) fn widened(from: *const f32, count: usize, head_dim: usize, width: usize) -> Self {
        let mut strips = [Strip::NOWHERE; STRIPS];
        for (index, strip) in strips.iter_mut().enumerate().take(count) {
            strip.keys = from.wrapping_add(index * LANES);
            strip.values = from.wrapping_add(index * LANES * width);
        }
        let reads = [std::ptr::null(); 2 * STRIPS + AHEAD];
        Self { strips, key_stride: TOGETHER * LANES, head_dim, width, first: 0, last: count, reads }
    }
}

/// The blocks of copied strips.
static COUNTING: [u32; STRIPS] = {
    let mut blocks = [0; STRIPS];
    let mut index = 0;
    while index < STRIPS {
        blocks[index] = index as u32;
        index += 1;
    }
    blocks
};
