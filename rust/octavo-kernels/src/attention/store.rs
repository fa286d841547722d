//! Rotation of the step's key heads, and K and V into their slots.
//!
//! An item is a block of the cache with the step's tokens in it, in their order: so no two threads write the same page
//! even where tokens share a slot, and a prompt's K is turned a block at a time. Queries are rotated where they are
//! multiplied, and nothing that is rotated is written back.

use std::mem::MaybeUninit;

use crate::kv_cache::{KvCacheConfig, KvElement, Pages, Piece};
use crate::norm_rope::{RmsNorm, Rope};
use crate::simd::{Kernel, LANES, Simd, load_slice, prefetch, store_slice};

use super::HeadRows;
use super::rows::CACHE_LINE;
use super::turn::turn;

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

impl Rotation<'_> {
    /// Norms and rotates heads of a token.
    #[inline(always)]
    pub(super) fn apply<S: Simd>(
        &self,
        simd: S,
        token: usize,
        heads: &mut [f32],
        head_dim: usize,
        norm: Option<&[f32]>,
    ) {
        let angles = &self.cos_sin[self.positions[token] as usize * self.rotary_dim..][..self.rotary_dim];
        if let Some(weight) = norm {
            for head in heads.chunks_exact_mut(head_dim) {
                RmsNorm { x: head, weight, eps: self.norm_eps }.run(simd);
            }
        }
        Rope { heads, head_dim, angles }.run(simd);
    }
}

/// Where the rows of the step's tokens are.
#[derive(Clone, Copy)]
pub(super) struct Source {
    pub(super) key: HeadRows,
    pub(super) value: HeadRows,
}

/// What all items of one call share.
pub(super) struct StoreCall<'a, E> {
    pub(super) config: &'a KvCacheConfig,
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

const MAX_HEAD_DIM: usize = 256;

impl<E: KvElement> Kernel for Store<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Store { call, pieces } = self;
        for piece in pieces {
            for head in 0..call.config.num_kv_heads {
                call.prefetch(*piece, head);
            }
            for begin in (0..piece.count).step_by(TOGETHER) {
                let count = TOGETHER.min(piece.count - begin);
                let part = Piece { token: piece.token + begin, offset: piece.offset + begin, count, ..*piece };
                for head in 0..call.config.num_kv_heads {
                    call.write(simd, part, head);
                }
            }
        }
    }
}

impl<E: KvElement> StoreCall<'_, E> {
    /// A token's K goes into every line of a page's K, so they are all fetched together.
    #[inline(always)]
    pub(super) fn prefetch(&self, piece: Piece, head: usize) {
        let Pages { head_dim, width, block_size, .. } = self.pages;
        let keys = self.pages.keys(piece.block, head).cast_const().cast::<u8>();
        for line in (0..head_dim * block_size * size_of::<E>()).step_by(CACHE_LINE) {
            prefetch(keys.wrapping_add(line));
        }
        let values = self.pages.values(piece.block, head).wrapping_add(piece.offset * width).cast_const().cast::<u8>();
        for line in (0..piece.count * width * size_of::<E>()).step_by(CACHE_LINE) {
            prefetch(values.wrapping_add(line));
        }
    }

    /// K and V of one head of at most TOGETHER tokens.
    #[inline(always)]
    pub(super) fn write<S: Simd>(&self, simd: S, piece: Piece, head: usize) {
        let Piece { token, count, block, offset } = piece;
        let Pages { head_dim, width, block_size, .. } = self.pages;
        let (keys, values) = (self.pages.keys(block, head), self.pages.values(block, head));
        let scales = self.pages.scales(block, head);
        // Not filled beforehand, which would take longer than the K of a single token.
        let mut encoded = [const { MaybeUninit::<E>::uninit() }; TOGETHER * MAX_HEAD_DIM];
        let encoded = encoded.as_mut_ptr().cast::<E>();
        let mut rotated = [0.0; MAX_HEAD_DIM];
        for index in 0..count {
            // SAFETY: the slots were checked against the number of blocks, so the page lies in this layer, and only this
            // item has its block or, in it, this slot; the rows are the step's; `encoded` has room for TOGETHER heads.
            unsafe {
                let row = |rows: HeadRows| {
                    let from = rows.pointer.add((token + index) * rows.stride + head * head_dim);
                    std::slice::from_raw_parts(from.cast_const(), head_dim)
                };
                let mut key = row(self.source.key);
                if let Some(rotation) = self.rotation {
                    let rotated = &mut rotated[..head_dim];
                    for at in (0..head_dim).step_by(LANES) {
                        store_slice(simd, rotated, at, load_slice(simd, key, at));
                    }
                    rotation.apply(simd, token + index, rotated, head_dim, rotation.key_norm);
                    key = rotated;
                }
                let key_scale = E::encode(simd, key, encoded.add(index * width));
                let value_scale = E::encode(simd, row(self.source.value), values.add((offset + index) * width));
                if E::SCALED {
                    *scales.add(offset + index) = key_scale;
                    *scales.add(block_size + offset + index) = value_scale;
                }
            }
        }
        // SAFETY: `encode` has written `count` rows, and the page has as many columns from `offset` on.
        unsafe { turn(encoded, width, count, head_dim, keys.add(offset), block_size) };
    }
}
