//! K and V of some strips in float32, for the many query rows of a tile.
//!
//! A tile of a prompt multiplies each element by 48 rows in 8 turns. Widened once it is not converted in each of them,
//! and strips lie side by side however the pages are scattered: four of them, 16 KiB with heads of 64, stay in the
//! first-level cache together with the tile's queries and scores.

use crate::kv_cache::KvElement;
use crate::simd::{Kernel, LANES, Simd, prefetch};

use super::rows::CACHE_LINE;
use super::split::Split;

/// Strips that are widened together.
pub(super) const TOGETHER: usize = 4;

/// K of the strips from `first` on to [head_dim, TOGETHER · 16].
pub(super) struct WidenKeys<'a, E> {
    pub(super) split: &'a Split<E>,
    pub(super) first: usize,
    pub(super) count: usize,
    pub(super) to: *mut f32,
}

impl<E: KvElement> Kernel for WidenKeys<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let rows_of_line = CACHE_LINE / LANES / size_of::<E>();
        let Split { head_dim, key_stride, .. } = *self.split;
        for index in 0..self.count {
            let keys = self.split.strip(self.first + index).keys;
            let ahead = self.split.after_keys(self.first + index);
            for dimension in 0..head_dim {
                if dimension.is_multiple_of(rows_of_line) {
                    prefetch(ahead.wrapping_add(dimension / rows_of_line * CACHE_LINE));
                }
                // SAFETY: K of the strip has head_dim rows, and `to` room for them.
                unsafe {
                    let key = E::load(simd, keys.add(dimension * key_stride));
                    simd.store(self.to.add((dimension * TOGETHER + index) * LANES), key);
                }
            }
        }
    }
}

/// V of the strips from `first` on to [TOGETHER · 16, width].
pub(super) struct WidenValues<'a, E> {
    pub(super) split: &'a Split<E>,
    pub(super) first: usize,
    pub(super) count: usize,
    pub(super) to: *mut f32,
}

impl<E: KvElement> Kernel for WidenValues<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let elements = LANES * self.split.width;
        for index in 0..self.count {
            let values = self.split.strip(self.first + index).values;
            let ahead = self.split.after_values(self.first + index);
            for at in (0..elements).step_by(LANES) {
                if (at * size_of::<E>()).is_multiple_of(CACHE_LINE) {
                    prefetch(ahead.wrapping_add(at * size_of::<E>()));
                }
                // SAFETY: V of the strip has 16 rows of `width`, and `to` room for them.
                unsafe { simd.store(self.to.add(index * elements + at), E::load(simd, values.add(at))) };
            }
        }
    }
}
