//! The kernel of float weights: `[column][16 rows]` strips.

use super::Item;
use crate::simd::{Element, LANES, Simd, load_first, store_first};

/// # Safety
/// The item's output is writable, and its weights are of type E.
#[inline(always)]
pub(super) unsafe fn multiply<S: Simd, E: Element>(simd: S, item: &Item<'_>) {
    for strip in item.strips.clone() {
        let weights = item.part.strip(strip).cast::<E>();
        let column = (strip - item.strips.start) * LANES;
        let rows = (item.part.rows - strip * LANES).min(LANES);
        for token in item.tokens.clone() {
            // SAFETY: the caller's promise; a strip has a line for each column; the bias is there for all rows or none.
            unsafe {
                let input = item.input.row(token);
                let mut sum = simd.splat(0.0);
                for k in 0..item.part.columns {
                    sum = simd.mul_add(simd.splat(*input.add(k)), E::load(simd, weights.add(k * LANES)), sum);
                }
                let out = item.out.pointer.add((token - item.tokens.start) * item.out.stride + column);
                if !item.bias.is_empty() {
                    sum = simd.add(sum, load_first(simd, item.bias.as_ptr().add(column), rows));
                }
                if item.out.add {
                    sum = simd.add(load_first(simd, out, rows), sum);
                }
                store_first(simd, out, sum, rows);
            }
        }
    }
}
