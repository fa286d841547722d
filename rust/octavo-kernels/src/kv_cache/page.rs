//! A page: K and V of one kv head in one block of one layer.
//!
//! K transposed, `[head_dim][block_size]`, then V, `[block_size][padded head_dim]`. So the scores of 16 neighbouring
//! positions are 16 lanes, the output's dimensions are lanes too, and a decode step reads a page from end to end. V's
//! rows are padded to a multiple of 16 (no padding for 64, 80, 96, 128, 256), and the padding stays zero. With int8
//! follow the scales, `[block_size]` for K and `[block_size]` for V: one for each position, in float32.

use std::marker::PhantomData;

use crate::simd::{Element, LANES, Simd, load_slice};

use super::KvCacheConfig;

/// An element type of the cache.
pub(crate) trait KvElement: Element {
    /// A position's K and its V have a factor each for what `load` gives.
    const SCALED: bool;

    /// Rounds a head into whole vectors, the last one filled with zeros, and returns its scale.
    ///
    /// # Safety
    /// `from.len()` elements, rounded up to a multiple of 16, are writable at `to`.
    unsafe fn encode<S: Simd>(simd: S, from: &[f32], to: *mut Self) -> f32;
}

macro_rules! stored_as_it_is {
    ($element:ty, $store:ident) => {
        impl KvElement for $element {
            const SCALED: bool = false;

            #[inline(always)]
            unsafe fn encode<S: Simd>(simd: S, from: &[f32], to: *mut Self) -> f32 {
                for at in (0..from.len()).step_by(LANES) {
                    // SAFETY: the caller's promise.
                    unsafe { simd.$store(to.add(at), load_slice(simd, from, at)) };
                }
                1.0
            }
        }
    };
}

stored_as_it_is!(f32, store);
stored_as_it_is!(half::bf16, store_bf16);
stored_as_it_is!(half::f16, store_f16);

/// Below it, 127 / x may be infinite; such a head counts as zero.
const SMALLEST: f32 = 1e-30;

impl KvElement for i8 {
    const SCALED: bool = true;

    /// Codes from -127 to 127, so that the largest value is exact. A head that is not finite has the scale NaN.
    #[inline(always)]
    unsafe fn encode<S: Simd>(simd: S, from: &[f32], to: *mut Self) -> f32 {
        let zero = simd.splat(0.0);
        let (mut size, mut broken) = (zero, zero);
        for at in (0..from.len()).step_by(LANES) {
            let x = load_slice(simd, from, at);
            size = simd.max(size, simd.max(x, simd.sub(zero, x)));
            broken = simd.mul_add(x, zero, broken);
        }
        let largest = simd.largest(size);
        let (scale, inverse) = if largest > SMALLEST { (largest / 127.0, 127.0 / largest) } else { (0.0, 0.0) };
        for at in (0..from.len()).step_by(LANES) {
            let code = simd.round(simd.mul(load_slice(simd, from, at), simd.splat(inverse)));
            // SAFETY: the caller's promise.
            unsafe { simd.store_i8(to.add(at), code) };
        }
        scale + simd.sum(broken)
    }
}

impl KvCacheConfig {
    pub(crate) fn padded_head_dim(&self) -> usize {
        self.head_dim.next_multiple_of(LANES)
    }

    pub(crate) fn page_bytes(&self) -> usize {
        self.dtype.position_bytes(self.head_dim + self.padded_head_dim()) * self.block_size
    }
}

/// The pages of a layer.
#[derive(Clone, Copy)]
pub(crate) struct Pages<E> {
    first: *mut u8,
    num_kv_heads: usize,
    pub(crate) head_dim: usize,
    /// head_dim, padded.
    pub(crate) width: usize,
    pub(crate) block_size: usize,
    element: PhantomData<E>,
}

// SAFETY: a pointer and sizes; who writes through it says why he may.
unsafe impl<E> Sync for Pages<E> {}

impl<E: KvElement> Pages<E> {
    pub(crate) fn new(first: *mut u8, config: &KvCacheConfig) -> Self {
        Self {
            first,
            num_kv_heads: config.num_kv_heads,
            head_dim: config.head_dim,
            width: config.padded_head_dim(),
            block_size: config.block_size,
            element: PhantomData,
        }
    }

    /// Pages of one kv head with blocks of 16 in memory of its own.
    pub(crate) fn strips(self, first: *mut u8) -> Self {
        Self { first, num_kv_heads: 1, block_size: LANES, ..self }
    }

    fn page_bytes(self) -> usize {
        let scales = if E::SCALED { 2 * size_of::<f32>() } else { 0 };
        ((self.head_dim + self.width) * size_of::<E>() + scales) * self.block_size
    }

    /// K's elements: dimension d of a position is `d · block_size + offset`.
    #[inline(always)]
    pub(crate) fn keys(self, block: usize, head: usize) -> *mut E {
        self.first.wrapping_add((block * self.num_kv_heads + head) * self.page_bytes()).cast()
    }

    /// V's elements: dimension d of a position is `offset · padded head_dim + d`.
    #[inline(always)]
    pub(crate) fn values(self, block: usize, head: usize) -> *mut E {
        self.keys(block, head).wrapping_add(self.head_dim * self.block_size)
    }

    /// K's scales, and V's `block_size` further; nothing to read unless `SCALED`.
    #[inline(always)]
    pub(crate) fn scales(self, block: usize, head: usize) -> *mut f32 {
        self.values(block, head).wrapping_add(self.width * self.block_size).cast()
    }
}
