//! The kernels of float weights.
//!
//! Strips lie `[column][16 rows]`, bfloat16 `[pair of columns][16 rows][2]`. Every element of the result is summed by
//! one lane in the order of the columns, from zero; then come the bias and what was there. For many tokens the columns
//! are cut into blocks whose weights stay in the second-level cache (`Shape`), and the sums wait in memory between them.
//! - `terms`: one step of the sums, for each type;
//! - `tile`: tokens by strips in registers;
//! - `tiled`: bfloat16 by AMX.

mod terms;
mod tile;
#[cfg(avx512)]
mod tiled;

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

use half::bf16;

use super::{Format, Item};
#[cfg(avx512)]
use crate::simd::amx::Amx;
use crate::simd::{Kernel, LANES, Simd};
use terms::{Half, Pairs, Single, Terms, WidenedPairs};
use tile::{Block, End, MOST_ROWS, STRIPS};

/// Lines of weights (64 bytes of a strip) in a block for many tokens: 4 strips take 64 KiB.
const LINES: usize = 256;

/// Tokens that a block meets.
const TOKENS: usize = 128;

/// Strips that rounded input serves.
const WIDE: usize = 2 * STRIPS;

/// Steps of rounded input that there is room for, of all tokens together.
const ROUNDED: usize = TOKENS * LINES;

/// Strips for a thread at a time: as many as a tile takes, unless that leaves threads without any.
pub(super) fn strips_a_share(strips: usize, threads: usize, tokens: usize) -> usize {
    match strips * tokens.div_ceil(TOKENS) / (threads * 4) {
        0..3 => 2,
        3..7 => STRIPS,
        _ => WIDE,
    }
}

/// # Safety
/// The item's output is writable; its weights are floats.
#[inline(always)]
pub(super) unsafe fn multiply<S: Simd>(simd: S, item: &Item<'_>) {
    #[cfg(avx512)]
    if let (Format::Bf16, Some(tiles)) = (item.part.format, simd.tiles()) {
        return simd.call_bf16(TiledProduct { item, tiles });
    }
    // SAFETY: the caller's promise.
    unsafe {
        match item.part.format {
            Format::F32 => product::<S, Single>(simd, item),
            Format::F16 => product::<S, Half>(simd, item),
            Format::Bf16 if simd.dots_bf16() => simd.call_bf16(RoundedProduct(item)),
            Format::Bf16 => product::<S, WidenedPairs>(simd, item),
            _ => unreachable!("quantised weights have kernels of their own"),
        }
    }
}

struct RoundedProduct<'a>(&'a Item<'a>);

impl Kernel for RoundedProduct<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        // SAFETY: the promise of `multiply`'s caller.
        unsafe { product::<S, Pairs>(simd, self.0) };
    }
}

#[cfg(avx512)]
struct TiledProduct<'a> {
    item: &'a Item<'a>,
    tiles: Amx,
}

#[cfg(avx512)]
impl Kernel for TiledProduct<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        // SAFETY: the promise of `multiply`'s caller.
        unsafe { tiled::product(simd, &mut self.tiles, self.item) };
    }
}

/// # Safety
/// As `multiply`; the weights lie as T reads them.
#[inline(always)]
unsafe fn product<S: Simd, T: Terms>(simd: S, item: &Item<'_>) {
    let steps = item.part.columns.div_ceil(T::COLUMNS);
    let one_tile = item.tokens.len() <= MOST_ROWS.min(S::ACCUMULATORS);
    let widen = item.tokens.len() >= T::WIDEN_FROM;
    let block_steps = match (one_tile, T::ROUNDED) {
        (true, true) => ROUNDED / MOST_ROWS / ROUND_STEPS * ROUND_STEPS,
        (true, false) => steps,
        (false, true) => LINES,
        (false, false) => LINES / T::COLUMNS,
    };
    let mut rounded = MaybeUninit::<[[bf16; 2]; ROUNDED]>::uninit();
    let rounded = rounded.as_mut_ptr().cast::<u8>();
    let mut widened = MaybeUninit::<[[[f32; LANES]; LINES]; STRIPS]>::uninit();
    let widened = widened.as_mut_ptr().cast::<[[f32; LANES]; LINES]>();
    let mut sums = MaybeUninit::<[[f32; WIDE * LANES]; TOKENS]>::uninit();
    let sums = sums.as_mut_ptr().cast::<f32>();
    for wide in item.strips.clone().step_by(WIDE) {
        let wide = wide..item.strips.end.min(wide + WIDE);
        for token in item.tokens.clone().step_by(TOKENS) {
            let tokens = token..item.tokens.end.min(token + TOKENS);
            for begin in (0..steps).step_by(block_steps) {
                let end = steps.min(begin + block_steps);
                // SAFETY: the promise of `multiply`'s caller: tokens, strips and steps are below the item's. The
                // buffers have room for TOKENS (or a tile's), WIDE or STRIPS, and `block_steps`.
                unsafe {
                    let (input, input_stride) = if T::ROUNDED {
                        round(simd, item, tokens.clone(), begin..end, rounded);
                        (rounded.cast_const(), (end - begin).next_multiple_of(ROUND_STEPS) * T::INPUT)
                    } else {
                        let input = item.input.row(token).add(begin * T::COLUMNS).cast::<u8>().cast_const();
                        (input, item.input.stride() * size_of::<f32>())
                    };
                    for strip in wide.clone().step_by(STRIPS) {
                        let num_strips = STRIPS.min(wide.end - strip);
                        let mut weights = [std::ptr::null(); STRIPS];
                        for (n, weights) in weights[..num_strips].iter_mut().enumerate() {
                            *weights = item.part.strip(strip + n).add(begin * T::WEIGHTS);
                        }
                        let (next_strip, next_step) = if strip + STRIPS < wide.end {
                            (strip + STRIPS, begin)
                        } else if end < steps {
                            (wide.start, end)
                        } else {
                            (wide.end, 0)
                        };
                        let next_strips = STRIPS.min(item.strips.end.saturating_sub(next_strip));
                        let mut next = [std::ptr::null(); STRIPS];
                        for (n, next) in next[..next_strips].iter_mut().enumerate() {
                            *next = item.part.strip(next_strip + n).add(next_step * T::WEIGHTS);
                        }
                        let next_lines = if next_strips == STRIPS && !one_tile {
                            (steps.min(next_step + block_steps) - next_step) * T::WEIGHTS / 64
                        } else {
                            0
                        };
                        let sums = sums.add((strip - wide.start) * LANES);
                        let block = Block::<T> {
                            rows: tokens.len(),
                            steps: end - begin,
                            input,
                            input_stride,
                            weights,
                            num_strips,
                            next,
                            next_lines,
                            start: (begin > 0).then_some(sums.cast_const()),
                            partial: (end < steps).then_some(sums),
                            sums_stride: WIDE * LANES,
                            end: item.end(strip, token),
                            terms: PhantomData,
                        };
                        if T::ROUNDED {
                            simd.call_bf16(block);
                        } else if widen {
                            for (n, weights) in weights[..num_strips].iter().enumerate() {
                                let to = widened.add(n).cast::<u8>();
                                for step in 0..end - begin {
                                    let from = weights.add(step * T::WEIGHTS);
                                    T::widen(simd, from, to.add(step * T::COLUMNS * Single::WEIGHTS).cast());
                                }
                            }
                            simd.call(block.widened(widened));
                        } else {
                            simd.call(block);
                        }
                    }
                }
            }
        }
    }
}

/// Steps of input that are rounded at a time: 32 columns.
const ROUND_STEPS: usize = LANES;

/// # Safety
/// As `multiply`; `to` has room.
#[inline(always)]
unsafe fn round<S: Simd>(simd: S, item: &Item<'_>, tokens: Range<usize>, steps: Range<usize>, to: *mut u8) {
    let mut to = to.cast::<bf16>();
    for token in tokens {
        for step in steps.clone().step_by(ROUND_STEPS) {
            // SAFETY: the caller's promise; a row of the input is padded to more than 32 columns.
            unsafe {
                let from = item.input.row(token).add(2 * step);
                simd.round_bf16(from, to);
                to = to.add(2 * ROUND_STEPS);
            }
        }
    }
}

impl Item<'_> {
    /// Where the sums from (strip, token) go.
    #[inline(always)]
    unsafe fn end(&self, strip: usize, token: usize) -> End {
        let column = (strip - self.strips.start) * LANES;
        // SAFETY: inside the output, as the strip and the token are the item's.
        let out = unsafe { self.out.pointer.add((token - self.tokens.start) * self.out.stride + column) };
        End {
            out,
            stride: self.out.stride,
            add: self.out.add,
            bias: self.bias.get(column..).filter(|bias| !bias.is_empty()).map(<[f32]>::as_ptr),
            columns: self.part.rows - strip * LANES,
        }
    }
}
