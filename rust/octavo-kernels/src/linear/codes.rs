//! How the quantised kernels read each format of a strip: the codes of a group, the scales of a block.

use super::layout::{LINE, Layout, STEPS, WHOLE_ROW};
use crate::simd::{LANES, Simd};

/// What a block's codes are multiplied by, for each row.
pub(super) struct Scales<V> {
    /// Of the halves of the block; the same if the format has one a block.
    pub(super) scales: [V; 2],
    /// What is added to each value; if the format has minima.
    pub(super) minimum: V,
}

/// A quantised format.
pub(super) trait Codes {
    const LAYOUT: Layout;
    /// What is subtracted from each code: 2 to this power, or nothing (with `MINIMUM`).
    const OFFSET_BITS: u32;
    const MINIMUM: bool = false;
    /// The halves of a block have scales of their own.
    const HALVES: bool = false;
    /// The scales are those of the row, and stand before its blocks.
    const ROW_SCALE: bool = false;

    /// # Safety
    /// `header` is that of the block, which is the `within`-th of it.
    unsafe fn scales<S: Simd>(simd: S, header: *const u8, within: usize) -> Scales<S::Vector>;

    /// Group G's 64 codes.
    ///
    /// # Safety
    /// `codes` are those of a block.
    #[inline(always)]
    unsafe fn group<S: Simd, const G: usize>(simd: S, codes: *const u8) -> S::Bytes {
        // SAFETY: the caller's promise: a block has `bits` lines.
        unsafe {
            if Self::LAYOUT.bits == 8 {
                return simd.load_bytes(codes.add(G * LINE));
            }
            let line = simd.load_bytes(codes.add(G % 4 * LINE));
            let nibbles = if G < 4 { line } else { simd.shift_right::<4>(line) };
            let nibbles = simd.and_each(nibbles, 15);
            match Self::LAYOUT.bits {
                4 => nibbles,
                5 => {
                    let fifth = simd.load_bytes(codes.add(4 * LINE));
                    let fifth = match G {
                        0 => simd.shift_left::<4>(fifth),
                        1 => simd.shift_left::<3>(fifth),
                        2 => simd.shift_left::<2>(fifth),
                        3 => simd.shift_left::<1>(fifth),
                        4 => fifth,
                        5 => simd.shift_right::<1>(fifth),
                        6 => simd.shift_right::<2>(fifth),
                        _ => simd.shift_right::<3>(fifth),
                    };
                    simd.or(nibbles, simd.and_each(fifth, 0x10))
                }
                _ => {
                    let upper = simd.load_bytes(codes.add((4 + G / 4) * LINE));
                    let upper = match G % 4 {
                        0 => simd.shift_left::<4>(upper),
                        1 => simd.shift_left::<2>(upper),
                        2 => upper,
                        _ => simd.shift_right::<2>(upper),
                    };
                    simd.or(nibbles, simd.and_each(upper, 0x30))
                }
            }
        }
    }
}

/// Q4_0, Q5_0, Q8_0: a float16 scale a block, two blocks a header.
pub(super) struct Symmetric<const BITS: usize>;

impl<const BITS: usize> Codes for Symmetric<BITS> {
    const LAYOUT: Layout = Layout::new(LINE, 2, BITS);
    const OFFSET_BITS: u32 = BITS as u32 - 1;

    #[inline(always)]
    unsafe fn scales<S: Simd>(simd: S, header: *const u8, within: usize) -> Scales<S::Vector> {
        // SAFETY: the caller's promise.
        let scale = unsafe { simd.load_f16(header.cast::<half::f16>().add(within * LANES)) };
        Scales { scales: [scale; 2], minimum: simd.splat(0.0) }
    }
}

/// Q4_1, Q5_1, and int4 in groups: a float16 scale and minimum for a few blocks.
pub(super) struct Asymmetric<const BITS: usize, const BLOCKS: usize>;

impl<const BITS: usize, const BLOCKS: usize> Codes for Asymmetric<BITS, BLOCKS> {
    const LAYOUT: Layout = Layout::new(LINE, BLOCKS, BITS);
    const OFFSET_BITS: u32 = 0;
    const MINIMUM: bool = true;

    #[inline(always)]
    unsafe fn scales<S: Simd>(simd: S, header: *const u8, _within: usize) -> Scales<S::Vector> {
        // SAFETY: the caller's promise.
        unsafe {
            let scale = simd.load_f16(header.cast::<half::f16>());
            Scales { scales: [scale; 2], minimum: simd.load_f16(header.cast::<half::f16>().add(LANES)) }
        }
    }
}

/// Q4_K and Q5_K: a float16 scale and minimum for 8 blocks, and 6-bit factors of both for each.
pub(super) struct Stepped<const BITS: usize>;

impl<const BITS: usize> Codes for Stepped<BITS> {
    const LAYOUT: Layout = Layout::new(LINE + 8 * STEPS, 8, BITS);
    const OFFSET_BITS: u32 = 0;
    const MINIMUM: bool = true;

    #[inline(always)]
    unsafe fn scales<S: Simd>(simd: S, header: *const u8, within: usize) -> Scales<S::Vector> {
        // SAFETY: the caller's promise.
        unsafe {
            let steps = header.add(LINE + within * STEPS);
            let scale = simd.mul(simd.load_f16(header.cast::<half::f16>()), simd.load_u8(steps));
            let minimum = simd.load_f16(header.cast::<half::f16>().add(LANES));
            let minimum = simd.mul(minimum, simd.load_u8(steps.add(LANES)));
            Scales { scales: [scale; 2], minimum: simd.sub(simd.splat(0.0), minimum) }
        }
    }
}

/// Q6_K: a float16 scale for 8 blocks, and a signed factor for each half of one.
pub(super) struct SixBits;

impl Codes for SixBits {
    const LAYOUT: Layout = Layout::new(LINE + 8 * STEPS, 8, 6);
    const OFFSET_BITS: u32 = 5;
    const HALVES: bool = true;

    #[inline(always)]
    unsafe fn scales<S: Simd>(simd: S, header: *const u8, within: usize) -> Scales<S::Vector> {
        // SAFETY: the caller's promise.
        unsafe {
            let scale = simd.load_f16(header.cast::<half::f16>());
            let steps = header.add(LINE + within * STEPS).cast::<i8>();
            let scales = [simd.mul(scale, simd.load_i8(steps)), simd.mul(scale, simd.load_i8(steps.add(LANES)))];
            Scales { scales, minimum: simd.splat(0.0) }
        }
    }
}

/// Int8: a float32 scale a row.
pub(super) struct RowScaled;

impl Codes for RowScaled {
    const LAYOUT: Layout = Layout::new(LINE, WHOLE_ROW, 8);
    const OFFSET_BITS: u32 = 7;
    const ROW_SCALE: bool = true;

    #[inline(always)]
    unsafe fn scales<S: Simd>(simd: S, header: *const u8, _within: usize) -> Scales<S::Vector> {
        // SAFETY: the caller's promise.
        let scale = unsafe { simd.load(header.cast()) };
        Scales { scales: [scale; 2], minimum: simd.splat(0.0) }
    }
}
