//! Products of quantised weights by AMX: 16 tokens by a strip, a block of columns at a time.
//!
//! What is left of the tokens, fewer than 16, goes by vectors. Both sum a block's products in integers, exactly, and then
//! take the same steps in floats, so a token has the same bits either way.

use std::mem::MaybeUninit;

use super::{Blocks, Codes, Part, Scales, Tile, Tokens, strip_product};
use crate::linear::Item;
use crate::linear::activations::Coded;
use crate::linear::layout::LINE;
use crate::simd::amx::{Lines, ROW, ROWS, Tiles};
use crate::simd::{LANES, Simd};

/// Groups of 4 columns in a block: lines of weights in a tile.
const GROUPS: usize = 8;

/// # Safety
/// As `quantised::multiply`.
#[inline(always)]
pub(super) unsafe fn product<S: Simd, C: Codes, M: Tiles>(simd: S, mut machine: M, item: &Item<'_>) {
    let rest = item.tokens.end - item.tokens.len() % ROWS;
    if rest > item.tokens.start {
        machine.configure([ROWS, 0], if C::HALVES { GROUPS / 2 } else { GROUPS });
    }
    for strip in item.strips.clone() {
        for token in (item.tokens.start..rest).step_by(ROWS) {
            simd.call(Tile::<C, _, ROWS>::new(item, strip, token, ByTiles { machine: &mut machine }));
        }
        // SAFETY: the caller's promise.
        unsafe { strip_product::<S, C>(simd, item, strip, rest..item.tokens.end) };
    }
    if rest > item.tokens.start {
        machine.release();
    }
}

struct ByTiles<'a, M> {
    machine: &'a mut M,
}

impl<M: Tiles, C: Codes> Blocks<C, ROWS> for ByTiles<'_, M> {
    #[inline(always)]
    unsafe fn add_block<S: Simd>(
        &mut self,
        simd: S,
        tokens: Tokens<ROWS>,
        codes: *const u8,
        scales: &Scales<S::Vector>,
        sums: &mut [S::Vector; ROWS],
    ) {
        let mut unpacked = MaybeUninit::<Lines<[[u8; LINE]; GROUPS]>>::uninit();
        // SAFETY: the caller's promise; there are GROUPS lines.
        unsafe {
            let lines = if C::LAYOUT.bits == 8 {
                codes
            } else {
                let to = unpacked.as_mut_ptr().cast::<u8>();
                simd.store_bytes(to, C::group::<S, 0>(simd, codes));
                simd.store_bytes(to.add(LINE), C::group::<S, 1>(simd, codes));
                simd.store_bytes(to.add(2 * LINE), C::group::<S, 2>(simd, codes));
                simd.store_bytes(to.add(3 * LINE), C::group::<S, 3>(simd, codes));
                simd.store_bytes(to.add(4 * LINE), C::group::<S, 4>(simd, codes));
                simd.store_bytes(to.add(5 * LINE), C::group::<S, 5>(simd, codes));
                simd.store_bytes(to.add(6 * LINE), C::group::<S, 6>(simd, codes));
                simd.store_bytes(to.add(7 * LINE), C::group::<S, 7>(simd, codes));
                to.cast_const()
            };
            if C::HALVES {
                self.add_part::<S, C>(simd, tokens, lines, Part::First, scales.scales[0], sums);
                self.add_part::<S, C>(simd, tokens, lines, Part::Second, scales.scales[1], sums);
            } else {
                self.add_part::<S, C>(simd, tokens, lines, Part::All, scales.scales[1], sums);
            }
            tokens.add_minimum::<S, C>(simd, scales, sums);
        }
    }
}

impl<M: Tiles> ByTiles<'_, M> {
    /// Adds the products of a block, or of a half of one, to `sums`.
    ///
    /// # Safety
    /// `lines` are the GROUPS of the block, and the machine is configured for as many columns as the part has.
    #[inline(always)]
    unsafe fn add_part<S: Simd, C: Codes>(
        &mut self,
        simd: S,
        tokens: Tokens<ROWS>,
        lines: *const u8,
        part: Part,
        scale: S::Vector,
        sums: &mut [S::Vector; ROWS],
    ) {
        let group = if part == Part::Second { GROUPS / 2 } else { 0 };
        let mut products = MaybeUninit::<Lines<[[i32; LANES]; ROWS]>>::uninit();
        let products = products.as_mut_ptr().cast::<i32>();
        // SAFETY: the caller's promise; ROWS tokens have codes of their own; `products` has room for a tile.
        unsafe {
            let values = (&raw const (*tokens.token(0)).codes).cast::<u8>();
            self.machine.zero::<0>();
            self.machine.load::<4>(values.add(4 * group), tokens.stride * size_of::<Coded>());
            self.machine.load::<6>(lines.add(group * LINE), LINE);
            self.machine.dot_bytes::<0, 4, 6>();
            self.machine.store::<0>(products.cast(), ROW);
            for (t, sum) in sums.iter_mut().enumerate() {
                let mut integers = simd.load_integers(products.add(t * LANES));
                if C::OFFSET_BITS > 0 {
                    integers = simd.add_integers(integers, tokens.offset::<S, C>(simd, t, part));
                }
                *sum = tokens.scaled::<S, C>(simd, t, integers, scale, *sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use crate::linear::{Activations, Contents, Encoding, Format, Linear, Output, Stored};
    use crate::simd::amx::emulated::Emulated;
    use crate::{CpuKernels, Isa};

    /// By vectors alone, or with the emulation.
    struct Product<'a, C> {
        item: &'a Item<'a>,
        by_tiles: bool,
        codes: PhantomData<C>,
    }

    impl<C: Codes> Kernel for Product<'_, C> {
        type Output = ();

        fn run<S: Simd>(self, simd: S) {
            // SAFETY: the item's output is a whole product's, and its input is in int8.
            unsafe {
                if self.by_tiles {
                    return tiled::product::<S, C, _>(simd, Emulated::new(), self.item);
                }
                for strip in self.item.strips.clone() {
                    strip_product::<S, C>(simd, self.item, strip, self.item.tokens.clone());
                }
            }
        }
    }

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let next = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(next).collect()
    }

    /// Any codes and steps, and scales and minima that are small numbers.
    fn stored_rows(encoding: Encoding, rows: usize, columns: usize) -> Vec<u8> {
        let (values, bytes) = encoding.unit();
        let mut out: Vec<u8> =
            numbers(rows * columns / values * bytes, 3).iter().map(|x| (x * 1e6) as i32 as u8).collect();
        for (index, unit) in out.chunks_mut(bytes).enumerate() {
            let halves: &[usize] = match encoding {
                Encoding::Q6K => &[208],
                Encoding::Q4_0 | Encoding::Q5_0 | Encoding::Q8_0 => &[0],
                _ => &[0, 2],
            };
            for &at in halves {
                let scale = half::f16::from_f32(0.01 * (index % 7) as f32 - 0.02);
                unit[at..at + 2].copy_from_slice(&scale.to_le_bytes());
            }
        }
        out
    }

    fn check<C: Codes>(encoding: Encoding, format: Format) {
        for isa in Isa::available() {
            let kernels = CpuKernels::new(1, Some(isa)).expect("available");
            for (rows, columns, tokens) in [(1, 256, 16), (50, 512, 37), (33, 1280, 15), (16, 768, 48)] {
                let bytes = match encoding {
                    Encoding::F32 => numbers(rows * columns, 1).iter().flat_map(|x| x.to_le_bytes()).collect(),
                    _ => stored_rows(encoding, rows, columns),
                };
                let stored = Stored { bytes: &bytes, rows, encoding, interleaved_head: 0 };
                let linear = Linear::pack(&kernels, columns, &[stored], Some(format)).expect("packs");
                let (input, bias) = (numbers(tokens * columns, 2), numbers(rows, 4));
                let input = Activations::of_rows(&kernels, &input, columns, Contents::Codes);
                let [vectors, tiles] = [false, true].map(|by_tiles| {
                    let mut out = vec![0.5; tokens * rows];
                    let item = Item {
                        part: &linear.parts[0],
                        strips: 0..rows.div_ceil(LANES),
                        tokens: 0..tokens,
                        input: &input,
                        out: Output { pointer: out.as_mut_ptr(), stride: rows, add: true },
                        bias: &bias,
                    };
                    kernels.run(Product::<C> { item: &item, by_tiles, codes: PhantomData });
                    out
                });
                assert!(vectors.iter().all(|x| x.is_finite()));
                assert_eq!(vectors, tiles, "{format} [{rows}, {columns}] by {tokens} on {isa}");
            }
        }
    }

    #[test]
    fn tiles_have_the_bits_of_vectors() {
        check::<Symmetric<4>>(Encoding::Q4_0, Format::Q4_0);
        check::<Symmetric<5>>(Encoding::Q5_0, Format::Q5_0);
        check::<Symmetric<8>>(Encoding::Q8_0, Format::Q8_0);
        check::<Asymmetric<4, 1>>(Encoding::Q4_1, Format::Q4_1);
        check::<Asymmetric<5, 1>>(Encoding::Q5_1, Format::Q5_1);
        check::<Stepped<4>>(Encoding::Q4K, Format::Q4K);
        check::<Stepped<5>>(Encoding::Q5K, Format::Q5K);
        check::<SixBits>(Encoding::Q6K, Format::Q6K);
        check::<RowScaled>(Encoding::F32, Format::Int8);
        check::<Asymmetric<4, 1>>(Encoding::F32, Format::Int4 { group: 32 });
        check::<Asymmetric<4, 2>>(Encoding::F32, Format::Int4 { group: 64 });
        check::<Asymmetric<4, 4>>(Encoding::F32, Format::Int4 { group: 128 });
    }
}
