//! Products of bfloat16 by AMX: 32 tokens by two strips at a time.
//!
//! An instruction sums 16 pairs of columns in an order of its own, so here every product, of one token too, is made of
//! it: bits still do not depend on how many tokens there are.

use std::mem::MaybeUninit;

use half::bf16;

use super::{LINES, ROUND_STEPS, ROUNDED, TOKENS, WIDE, round};
use crate::linear::Item;
use crate::simd::amx::{Lines, ROW, ROWS, Tiles};
use crate::simd::{LANES, Simd};

/// Tokens of two tiles.
const PAIR: usize = 2 * ROWS;

/// Steps (pairs of columns) of a tile.
const TILE_STEPS: usize = ROW / 4;
const _: () = assert!(TILE_STEPS == ROUND_STEPS && LINES.is_multiple_of(TILE_STEPS));

const SUMS_STRIDE: usize = WIDE * LANES;

/// # Safety
/// As `float::multiply`, of bfloat16 weights.
#[inline(always)]
pub(super) unsafe fn product<S: Simd, T: Tiles>(simd: S, tiles: &mut T, item: &Item<'_>) {
    let steps = item.part.columns.div_ceil(2);
    let block_steps = if item.tokens.len() <= PAIR { ROUNDED / PAIR } else { LINES };
    let mut rounded = MaybeUninit::<Lines<[[bf16; 2]; ROUNDED]>>::uninit();
    let rounded = rounded.as_mut_ptr().cast::<u8>();
    let mut sums = MaybeUninit::<Lines<[[f32; SUMS_STRIDE]; TOKENS]>>::uninit();
    let sums = sums.as_mut_ptr().cast::<f32>();
    for wide in item.strips.clone().step_by(WIDE) {
        let wide = wide..item.strips.end.min(wide + WIDE);
        for token in item.tokens.clone().step_by(TOKENS) {
            let tokens = token..item.tokens.end.min(token + TOKENS);
            for begin in (0..steps).step_by(block_steps) {
                let end = steps.min(begin + block_steps);
                let depth = (end - begin).div_ceil(TILE_STEPS);
                let stride = depth * ROW;
                // SAFETY: the promise of `multiply`'s caller. The buffers have room for TOKENS (or PAIR), WIDE and
                // `block_steps`; strips of bfloat16 are padded to whole tiles.
                unsafe {
                    round(simd, item, tokens.clone(), begin..end, rounded);
                    for first in (0..tokens.len()).step_by(PAIR) {
                        let rows = tokens.len() - first;
                        tiles.configure([rows.min(ROWS), rows.saturating_sub(ROWS).min(ROWS)], TILE_STEPS);
                        let input = rounded.add(first * stride).cast_const();
                        for strip in wide.clone().step_by(2) {
                            let weights = item.part.strip(strip).add(begin * ROW);
                            let next = (strip + 1 < wide.end).then(|| item.part.strip(strip + 1).add(begin * ROW));
                            let sums = sums.add(first * SUMS_STRIDE + (strip - wide.start) * LANES).cast::<u8>();
                            let block = Block { input, stride, weights, depth, sums, add: begin > 0 };
                            match (rows > ROWS, next) {
                                (true, Some(next)) => block.multiply::<T, true, true>(tiles, next),
                                (false, Some(next)) => block.multiply::<T, false, true>(tiles, next),
                                (true, None) => block.multiply::<T, true, false>(tiles, weights),
                                (false, None) => block.multiply::<T, false, false>(tiles, weights),
                            }
                        }
                    }
                }
            }
            for strip in wide.clone() {
                // SAFETY: the promise of `multiply`'s caller; all sums were stored above.
                unsafe {
                    let end = item.end(strip, token);
                    for row in 0..tokens.len() {
                        let sum = simd.load(sums.add(row * SUMS_STRIDE + (strip - wide.start) * LANES));
                        end.store(simd, row, 0, sum);
                    }
                }
            }
        }
    }
    tiles.release();
}

/// One or two tiles of tokens by one or two strips.
struct Block {
    input: *const u8,
    /// Bytes.
    stride: usize,
    weights: *const u8,
    /// Tiles of weights.
    depth: usize,
    sums: *mut u8,
    /// Onto the sums that are there.
    add: bool,
}

impl Block {
    #[inline(always)]
    unsafe fn multiply<T: Tiles, const TALL: bool, const BROAD: bool>(self, tiles: &mut T, next: *const u8) {
        const STRIDE: usize = SUMS_STRIDE * size_of::<f32>();
        // SAFETY: the promise of `product`.
        unsafe {
            let right = self.sums.add(LANES * size_of::<f32>());
            let below = self.sums.add(ROWS * STRIDE);
            let below_right = below.add(LANES * size_of::<f32>());
            if self.add {
                tiles.load::<0>(self.sums, STRIDE);
                if BROAD {
                    tiles.load::<1>(right, STRIDE);
                }
                if TALL {
                    tiles.load::<2>(below, STRIDE);
                }
                if TALL && BROAD {
                    tiles.load::<3>(below_right, STRIDE);
                }
            } else {
                tiles.zero::<0>();
                tiles.zero::<1>();
                if TALL {
                    tiles.zero::<2>();
                    tiles.zero::<3>();
                }
            }
            for k in 0..self.depth {
                let input = self.input.add(k * ROW);
                tiles.load::<4>(input, self.stride);
                tiles.load::<6>(self.weights.add(k * ROWS * ROW), ROW);
                tiles.dot_bf16::<0, 4, 6>();
                if BROAD {
                    tiles.load::<7>(next.add(k * ROWS * ROW), ROW);
                    tiles.dot_bf16::<1, 4, 7>();
                }
                if TALL {
                    tiles.load::<5>(input.add(ROWS * self.stride), self.stride);
                    tiles.dot_bf16::<2, 5, 6>();
                }
                if TALL && BROAD {
                    tiles.dot_bf16::<3, 5, 7>();
                }
            }
            tiles.store::<0>(self.sums, STRIDE);
            if BROAD {
                tiles.store::<1>(right, STRIDE);
            }
            if TALL {
                tiles.store::<2>(below, STRIDE);
            }
            if TALL && BROAD {
                tiles.store::<3>(below_right, STRIDE);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linear::{Activations, Contents, Encoding, Format, Linear, Output, Stored};
    use crate::simd::Kernel;
    use crate::simd::amx::emulated::Emulated;
    use crate::{CpuKernels, Isa};

    struct Emulation<'a>(&'a Item<'a>);

    impl Kernel for Emulation<'_> {
        type Output = ();

        fn run<S: Simd>(self, simd: S) {
            // SAFETY: the item's output is a whole product's, and its weights are bfloat16.
            unsafe { product(simd, &mut Emulated::new(), self.0) };
        }
    }

    fn multiply(kernels: &CpuKernels, linear: &Linear, input: &[f32], rows: usize, bias: &[f32]) -> Vec<f32> {
        let part = &linear.parts[0];
        let activations = Activations::of_rows(kernels, input, linear.columns(), Contents::Floats);
        let mut out = vec![0.5; rows * linear.rows()];
        let out_rows = Output { pointer: out.as_mut_ptr(), stride: linear.rows(), add: true };
        let strips = 0..linear.rows().div_ceil(LANES);
        kernels.run(Emulation(&Item { part, strips, tokens: 0..rows, input: &activations, out: out_rows, bias }));
        out
    }

    /// Numbers of few bits: every order of summing them is exact.
    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        (0..count as u32)
            .map(|i| ((i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 24) as f32 - 127.0) / 64.0)
            .collect()
    }

    #[test]
    fn tiles_of_every_size_make_the_product() {
        let kernels = CpuKernels::new(1, Some(Isa::Portable)).expect("everywhere");
        for (rows, columns, tokens) in [(1, 1, 1), (16, 32, 16), (50, 70, 33), (150, 600, 17), (33, 2100, 140)] {
            let (weights, input, bias) = (numbers(rows * columns, 1), numbers(tokens * columns, 2), numbers(rows, 3));
            let bytes: Vec<u8> = weights.iter().flat_map(|x| x.to_le_bytes()).collect();
            let part = Stored { bytes: &bytes, rows, encoding: Encoding::F32, interleaved_head: 0 };
            let linear = Linear::pack(&kernels, columns, &[part], Some(Format::Bf16)).expect("packs");
            let all = multiply(&kernels, &linear, &input, tokens, &bias);
            for (token, out) in all.chunks(rows).enumerate() {
                let x = &input[token * columns..(token + 1) * columns];
                for (row, &out) in out.iter().enumerate() {
                    let dot: f32 = x.iter().zip(&weights[row * columns..]).map(|(x, w)| x * w).sum();
                    assert_eq!(out, 0.5 + (dot + bias[row]), "[{rows}, {columns}] by {tokens}: ({token}, {row})");
                }
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_in_every_product() {
        let kernels = CpuKernels::new(1, None).expect("the best");
        let (rows, columns, tokens) = (40, 1100, 150);
        let odd = |count: usize, seed| numbers(count, seed).into_iter().map(|x| (x * 1.3).sin()).collect::<Vec<_>>();
        let (weights, input) = (odd(rows * columns, 1), odd(tokens * columns, 2));
        let bytes: Vec<u8> = weights.iter().flat_map(|x| x.to_le_bytes()).collect();
        let part = Stored { bytes: &bytes, rows, encoding: Encoding::F32, interleaved_head: 0 };
        let linear = Linear::pack(&kernels, columns, &[part], Some(Format::Bf16)).expect("packs");
        let all = multiply(&kernels, &linear, &input, tokens, &[]);
        for token in [0, 15, 16, 100, 149] {
            let one = multiply(&kernels, &linear, &input[token * columns..(token + 1) * columns], 1, &[]);
            assert_eq!(one, all[token * rows..(token + 1) * rows], "token {token}");
        }
    }
}
