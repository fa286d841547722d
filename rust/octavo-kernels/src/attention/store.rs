//! Rotation of the step's query and key heads, and K and V into their slots.
//!
//! An item is a block of the cache with the step's tokens in it, in their order: so no two threads write the same page
//! even where tokens share a slot, and a prompt's K is turned a block at a time.

use crate::kv_cache::{KvCacheConfig, KvElement, Pages, Piece};
use crate::norm_rope::{RmsNorm, Rope};
use crate::simd::{Kernel, Simd};

use super::HeadRows;

/// Rotary embedding, after a norm of each head where the weights are given.
#[derive(Clone, Copy)]
pub(crate) struct Rotation<'a> {
    /// One for each token, below the number of rows of `cos_sin`.
    pub(crate) positions: &'a [i32],
    /// [max_position, rotary_dim]: cosines in the first half of a row, sines in the second.
    pub(crate) cos_sin: &'a [f32],
    /// Even, at most head_dim.
    pub(crate) rotary_dim: usize,
    /// [head_dim]
    pub(crate) query_norm: Option<&'a [f32]>,
    pub(crate) key_norm: Option<&'a [f32]>,
    pub(crate) norm_eps: f32,
}

/// Where the rows of the step's tokens are.
#[derive(Clone, Copy)]
pub(super) struct Source {
    /// To be rotated.
    pub(super) query: Option<HeadRows>,
    pub(super) key: HeadRows,
    pub(super) value: HeadRows,
}

/// What all items of one call share.
pub(super) struct StoreCall<'a, E> {
    pub(super) config: &'a KvCacheConfig,
    pub(super) group: usize,
    /// The layer's pages.
    pub(super) pages: Pages<E>,
    pub(super) source: Source,
    pub(super) rotation: Option<&'a Rotation<'a>>,
}

/// The kernel of one item.
pub(super) struct Store<'a, E> {
    pub(super) call: &'a StoreCall<'a, E>,
    /// The tokens of one block.
    pub(super) pieces: &'a [Piece],
}

/// Tokens whose K is turned together.
const TOGETHER: usize = 16;

impl<E: KvElement> Kernel for Store<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Store { call, pieces } = self;
        for piece in pieces {
            for token in piece.token..piece.token + piece.count {
                call.rotate(simd, token);
            }
            for begin in (0..piece.count).step_by(TOGETHER) {
                let count = TOGETHER.min(piece.count - begin);
                for head in 0..call.config.num_kv_heads {
                    call.write(simd, piece.block, piece.offset + begin, piece.token + begin, count, head);
                }
            }
        }
    }
}

impl<E: KvElement> StoreCall<'_, E> {
    #[inline(always)]
    fn rotate<S: Simd>(&self, simd: S, token: usize) {
        let Some(rotation) = self.rotation else { return };
        let Rotation { positions, cos_sin, rotary_dim, query_norm, key_norm, norm_eps } = *rotation;
        let (kv_heads, head_dim) = (self.config.num_kv_heads, self.config.head_dim);
        let angles = &cos_sin[positions[token] as usize * rotary_dim..][..rotary_dim];
        let key = (Some(self.source.key), kv_heads, key_norm);
        for (rows, heads, norm) in [(self.source.query, kv_heads * self.group, query_norm), key] {
            let Some(rows) = rows else { continue };
            // SAFETY: the rows are the step's, and this token is this item's alone.
            let heads =
                unsafe { std::slice::from_raw_parts_mut(rows.pointer.add(token * rows.stride), heads * head_dim) };
            if let Some(weight) = norm {
                for head in heads.chunks_exact_mut(head_dim) {
                    RmsNorm { x: head, weight, eps: norm_eps }.run(simd);
                }
            }
            Rope { heads, head_dim, angles }.run(simd);
        }
    }

    /// K and V of one head of `count` tokens from `token` on, into the block from `offset` on.
    #[inline(always)]
    fn write<S: Simd>(&self, simd: S, block: usize, offset: usize, token: usize, count: usize, head: usize) {
        let Pages { head_dim, width, block_size, .. } = self.pages;
        let (keys, values) = (self.pages.keys(block, head), self.pages.values(block, head));
        let scales = self.pages.scales(block, head);
        let mut rows = [[E::ZERO; 256]; TOGETHER];
        for (index, encoded) in rows.iter_mut().enumerate().take(count) {
            // SAFETY: the slots were checked against the number of blocks, so the page lies in this layer, and only this
            // item has its block; the rows are the step's; `encoded` has room for the largest head.
            unsafe {
                let row = |rows: HeadRows| {
                    let from = rows.pointer.add((token + index) * rows.stride + head * head_dim);
                    std::slice::from_raw_parts(from.cast_const(), head_dim)
                };
                let key_scale = E::encode(simd, row(self.source.key), encoded.as_mut_ptr());
                let value_scale = E::encode(simd, row(self.source.value), values.add((offset + index) * width));
                if E::SCALED {
                    *scales.add(offset + index) = key_scale;
                    *scales.add(block_size + offset + index) = value_scale;
                }
            }
        }
        for dimension in 0..head_dim {
            for (index, encoded) in rows.iter().enumerate().take(count) {
                // SAFETY: as above.
                unsafe { *keys.add(dimension * block_size + offset + index) = encoded[dimension] };
            }
        }
    }
}
