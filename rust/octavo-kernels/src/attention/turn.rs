//! Rows of elements to columns: K of some tokens, as a page has it.

use crate::kv_cache::KvElement;

/// to[column, row] = from[row, column], rows as far apart as the strides say.
///
/// # Safety
/// [rows, columns] is readable at `from` and [columns, rows] writable at `to`; `columns` is a multiple of 8.
#[inline(always)]
pub(super) unsafe fn turn<E: KvElement>(
    from: *const E,
    from_stride: usize,
    rows: usize,
    columns: usize,
    to: *mut E,
    to_stride: usize,
) {
    let together = if cfg!(target_arch = "x86_64") && size_of::<E>() == size_of::<u16>() { rows / 8 * 8 } else { 0 };
    #[cfg(target_arch = "x86_64")]
    for row in (0..together).step_by(8) {
        for column in (0..columns).step_by(8) {
            // SAFETY: 8 rows of 8 columns lie inside, and E is 16 bits wide.
            unsafe {
                let from = from.add(row * from_stride + column).cast();
                turn_eight(from, from_stride, to.add(column * to_stride + row).cast(), to_stride);
            }
        }
    }
    for column in 0..columns {
        for row in together..rows {
            // SAFETY: the caller's promise.
            unsafe { *to.add(column * to_stride + row) = *from.add(row * from_stride + column) };
        }
    }
}

/// Eight rows of eight in 24 shuffles.
///
/// # Safety
/// As `turn`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn turn_eight(from: *const u16, from_stride: usize, to: *mut u16, to_stride: usize) {
    use std::arch::x86_64::*;
    // SAFETY: the caller's promise, and SSE2 is part of x86-64.
    unsafe {
        let mut rows = [_mm_setzero_si128(); 8];
        for (index, row) in rows.iter_mut().enumerate() {
            *row = _mm_loadu_si128(from.add(index * from_stride).cast());
        }
        let [a, b, c, d, e, f, g, h] = rows;
        // Pairs of rows, then fours: [columns 0 and 1, 2 and 3, 4 and 5, 6 and 7].
        let (ab, cd) = (_mm_unpacklo_epi16(a, b), _mm_unpacklo_epi16(c, d));
        let (ef, gh) = (_mm_unpacklo_epi16(e, f), _mm_unpacklo_epi16(g, h));
        let (ab_high, cd_high) = (_mm_unpackhi_epi16(a, b), _mm_unpackhi_epi16(c, d));
        let (ef_high, gh_high) = (_mm_unpackhi_epi16(e, f), _mm_unpackhi_epi16(g, h));
        let first = [
            _mm_unpacklo_epi32(ab, cd),
            _mm_unpackhi_epi32(ab, cd),
            _mm_unpacklo_epi32(ab_high, cd_high),
            _mm_unpackhi_epi32(ab_high, cd_high),
        ];
        let last = [
            _mm_unpacklo_epi32(ef, gh),
            _mm_unpackhi_epi32(ef, gh),
            _mm_unpacklo_epi32(ef_high, gh_high),
            _mm_unpackhi_epi32(ef_high, gh_high),
        ];
        for pair in 0..4 {
            let to = to.add(2 * pair * to_stride);
            _mm_storeu_si128(to.cast(), _mm_unpacklo_epi64(first[pair], last[pair]));
            _mm_storeu_si128(to.add(to_stride).cast(), _mm_unpackhi_epi64(first[pair], last[pair]));
        }
    }
}
