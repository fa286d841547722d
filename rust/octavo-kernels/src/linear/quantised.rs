//! The kernel of quantised weights: tiles of tokens × strips, summed in integers a block and in floats over the blocks.
//! - `tiled`: the integers by AMX. They are exact, so its products have the same bits.

#[cfg(avx512)]
mod tiled;

use std::marker::PhantomData;
use std::ops::Range;

use super::activations::Coded;
use super::codes::{Asymmetric, Codes, RowScaled, Scales, SixBits, Stepped, Symmetric};
use super::layout::{LINE, Layout};
use super::{Format, Item};
use crate::simd::{Kernel, LANES, Simd, load_first, store_first};

/// # Safety
/// The item's output is writable, and its input holds the tokens in int8.
#[inline(always)]
pub(super) unsafe fn multiply<S: Simd>(simd: S, item: &Item<'_>) {
    // SAFETY: the caller's promise.
    unsafe {
        match item.part.format {
            Format::Q4_0 => product::<S, Symmetric<4>>(simd, item),
            Format::Q5_0 => product::<S, Symmetric<5>>(simd, item),
            Format::Q8_0 => product::<S, Symmetric<8>>(simd, item),
            Format::Q4_1 | Format::Int4 { group: 32 } => product::<S, Asymmetric<4, 1>>(simd, item),
            Format::Int4 { group: 64 } => product::<S, Asymmetric<4, 2>>(simd, item),
            Format::Int4 { .. } => product::<S, Asymmetric<4, 4>>(simd, item),
            Format::Q5_1 => product::<S, Asymmetric<5, 1>>(simd, item),
            Format::Q4K => product::<S, Stepped<4>>(simd, item),
            Format::Q5K => product::<S, Stepped<5>>(simd, item),
            Format::Q6K => product::<S, SixBits>(simd, item),
            Format::Int8 => product::<S, RowScaled>(simd, item),
            Format::F32 | Format::F16 | Format::Bf16 => unreachable!("floats have a kernel of their own"),
        }
    }
}

/// Each strip by tiles of tokens, all but the first of which find it in the first-level cache. One strip at a time reads
/// the memory from end to end, which on Zen 5 fed up to 6 tokens quicker than two strips side by side, and with 8 to 12
/// tokens a tile costs no more.
#[inline(always)]
unsafe fn product<S: Simd, C: Codes>(simd: S, item: &Item<'_>) {
    debug_assert_eq!(Some(C::LAYOUT), Layout::of(item.part.format));
    // SAFETY: the promise of `multiply`'s caller.
    unsafe {
        #[cfg(avx512)]
        if let Some(tiles) = simd.tiles() {
            return tiled::product::<S, C, _>(simd, tiles, item);
        }
        for strip in item.strips.clone() {
            strip_product::<S, C>(simd, item, strip, item.tokens.clone());
        }
    }
}

/// Tiles of about the same height.
#[inline(always)]
unsafe fn strip_product<S: Simd, C: Codes>(simd: S, item: &Item<'_>, strip: usize, tokens: Range<usize>) {
    let tiles = tokens.len().div_ceil(S::TOKENS);
    let mut token = tokens.start;
    for tile in 0..tiles {
        let end = tokens.start + tokens.len() * (tile + 1) / tiles;
        // SAFETY: the promise of `multiply`'s caller.
        unsafe { call_tile::<S, C>(simd, item, strip, token..end) };
        token = end;
    }
}

#[inline(always)]
unsafe fn call_tile<S: Simd, C: Codes>(simd: S, item: &Item<'_>, strip: usize, tokens: Range<usize>) {
    let token = tokens.start;
    match tokens.len() {
        1 => simd.call(Tile::<C, _, 1>::new(item, strip, token, ByVectors)),
        2 => simd.call(Tile::<C, _, 2>::new(item, strip, token, ByVectors)),
        3 => simd.call(Tile::<C, _, 3>::new(item, strip, token, ByVectors)),
        4 => simd.call(Tile::<C, _, 4>::new(item, strip, token, ByVectors)),
        5 if S::TOKENS > 4 => simd.call(Tile::<C, _, 5>::new(item, strip, token, ByVectors)),
        6 if S::TOKENS > 4 => simd.call(Tile::<C, _, 6>::new(item, strip, token, ByVectors)),
        7 if S::TOKENS > 4 => simd.call(Tile::<C, _, 7>::new(item, strip, token, ByVectors)),
        8 if S::TOKENS > 4 => simd.call(Tile::<C, _, 8>::new(item, strip, token, ByVectors)),
        9 if S::TOKENS > 4 => simd.call(Tile::<C, _, 9>::new(item, strip, token, ByVectors)),
        10 if S::TOKENS > 4 => simd.call(Tile::<C, _, 10>::new(item, strip, token, ByVectors)),
        11 if S::TOKENS > 4 => simd.call(Tile::<C, _, 11>::new(item, strip, token, ByVectors)),
        12 if S::TOKENS > 4 => simd.call(Tile::<C, _, 12>::new(item, strip, token, ByVectors)),
        _ => debug_assert!(tokens.is_empty()),
    }
}

/// T tokens by one strip.
struct Tile<'a, C, B, const T: usize> {
    item: &'a Item<'a>,
    strip: usize,
    token: usize,
    blocks: B,
    codes: PhantomData<C>,
}

impl<'a, C: Codes, B: Blocks<C, T>, const T: usize> Tile<'a, C, B, T> {
    fn new(item: &'a Item<'a>, strip: usize, token: usize, blocks: B) -> Self {
        Self { item, strip, token, blocks, codes: PhantomData }
    }
}

/// How the blocks of a tile are multiplied.
trait Blocks<C: Codes, const T: usize> {
    /// Adds a block's products, times the scales, to `sums`.
    ///
    /// # Safety
    /// `codes` are those of a block.
    unsafe fn add_block<S: Simd>(
        &mut self,
        simd: S,
        tokens: Tokens<T>,
        codes: *const u8,
        scales: &Scales<S::Vector>,
        sums: &mut [S::Vector; T],
    );
}

/// How far ahead of the block at work memory is fetched: 2.5 KB read a strip quicker than half or twice as much.
const AHEAD: usize = 2560;

impl<C: Codes, B: Blocks<C, T>, const T: usize> Kernel for Tile<'_, C, B, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { item, strip, token, mut blocks, .. } = self;
        let weights = item.part.strip(strip);
        let stride = item.input.blocks();
        let tokens = Tokens::<T> { first: item.input.coded(token), stride };
        let fetches = token == item.tokens.start;
        let mut sums = [simd.splat(0.0); T];
        for block in 0..stride {
            let (header, codes) = C::LAYOUT.at(block);
            let within = block % C::LAYOUT.blocks;
            // SAFETY: a strip has `stride` blocks, as has a token. What is fetched ahead may lie outside.
            unsafe {
                let (header, codes) = (weights.add(header), weights.add(codes));
                if fetches {
                    for line in 0..C::LAYOUT.bits {
                        simd.prefetch(codes.wrapping_add(AHEAD + line * LINE));
                    }
                    if within == 0 {
                        for line in 0..C::LAYOUT.header / LINE {
                            simd.prefetch(header.wrapping_add(AHEAD + line * LINE));
                        }
                    }
                }
                let scales = C::scales(simd, header, within);
                let tokens = Tokens { first: tokens.first.add(block), ..tokens };
                blocks.add_block(simd, tokens, codes, &scales, &mut sums);
            }
        }
        // SAFETY: the promise of `multiply`'s caller.
        unsafe {
            if C::ROW_SCALE {
                let scale = C::scales(simd, weights, 0).scales[0];
                for sum in &mut sums {
                    *sum = simd.mul(*sum, scale);
                }
            }
            let rows = (item.part.rows - strip * LANES).min(LANES);
            let column = (strip - item.strips.start) * LANES;
            for (t, &sum) in sums.iter().enumerate() {
                store(simd, item, token + t - item.tokens.start, column, rows, sum);
            }
        }
    }
}

/// The same block of T tokens.
#[derive(Clone, Copy)]
struct Tokens<const T: usize> {
    first: *const Coded,
    stride: usize,
}

/// What T tokens have of a block.
struct Products<S: Simd, const T: usize> {
    sums: [S::Integers; T],
    partial: [S::Partial; T],
}

/// By the dot products of `Simd`.
struct ByVectors;

impl<C: Codes, const T: usize> Blocks<C, T> for ByVectors {
    #[inline(always)]
    unsafe fn add_block<S: Simd>(
        &mut self,
        simd: S,
        tokens: Tokens<T>,
        codes: *const u8,
        scales: &Scales<S::Vector>,
        sums: &mut [S::Vector; T],
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut products = tokens.start::<S, C>(simd, if C::HALVES { Part::First } else { Part::All });
            tokens.add_group::<S, C, 0>(simd, codes, &mut products, 1);
            if C::HALVES {
                tokens.add_group::<S, C, 1>(simd, codes, &mut products, 2);
                tokens.add_group::<S, C, 2>(simd, codes, &mut products, 3);
                tokens.add_group::<S, C, 3>(simd, codes, &mut products, 4);
                tokens.finish::<S, C>(simd, &products, scales.scales[0], sums);
                products = tokens.start::<S, C>(simd, Part::Second);
                tokens.add_group::<S, C, 4>(simd, codes, &mut products, 1);
                tokens.add_group::<S, C, 5>(simd, codes, &mut products, 2);
                tokens.add_group::<S, C, 6>(simd, codes, &mut products, 3);
                tokens.add_group::<S, C, 7>(simd, codes, &mut products, 4);
            } else {
                // A line holds two groups.
                tokens.add_group::<S, C, 4>(simd, codes, &mut products, 2);
                tokens.add_group::<S, C, 1>(simd, codes, &mut products, 3);
                tokens.add_group::<S, C, 5>(simd, codes, &mut products, 4);
                tokens.add_group::<S, C, 2>(simd, codes, &mut products, 5);
                tokens.add_group::<S, C, 6>(simd, codes, &mut products, 6);
                tokens.add_group::<S, C, 3>(simd, codes, &mut products, 7);
                tokens.add_group::<S, C, 7>(simd, codes, &mut products, 8);
            }
            tokens.finish::<S, C>(simd, &products, scales.scales[1], sums);
            tokens.add_minimum::<S, C>(simd, scales, sums);
        }
    }
}

#[expect(clippy::needless_range_loop, reason = "constant bounds on arrays that become registers")]
impl<const T: usize> Tokens<T> {
    #[inline(always)]
    unsafe fn token(self, t: usize) -> *const Coded {
        // SAFETY: there are T of them.
        unsafe { self.first.add(t * self.stride) }
    }

    /// The products begin with what the offset of the codes takes away.
    #[inline(always)]
    unsafe fn start<S: Simd, C: Codes>(self, simd: S, part: Part) -> Products<S, T> {
        let mut sums = [simd.zero_integers(); T];
        if C::OFFSET_BITS > 0 && (C::LAYOUT.bits < 8 || S::UNSIGNED_CODES) {
            for t in 0..T {
                // SAFETY: the promise of `add_block`'s caller.
                sums[t] = unsafe { self.offset::<S, C>(simd, t, part) };
            }
        }
        let mut partial = [simd.open(sums[0]); T];
        for t in 1..T {
            partial[t] = simd.open(sums[t]);
        }
        Products { sums, partial }
    }

    /// What the offset of the codes takes away from a token's products.
    #[inline(always)]
    unsafe fn offset<S: Simd, C: Codes>(self, simd: S, t: usize, part: Part) -> S::Integers {
        // SAFETY: the promise of `add_block`'s caller.
        let negative = unsafe {
            let token = self.token(t);
            let all = &raw const (*token).negative_sum;
            let half = &raw const (*token).negative_half;
            match part {
                Part::All => simd.splat_integer_at(all),
                Part::First => simd.splat_integer_at(half),
                Part::Second => simd.sub_integers(simd.splat_integer_at(all), simd.splat_integer_at(half)),
            }
        };
        match C::OFFSET_BITS {
            3 => simd.shift_integers::<3>(negative),
            4 => simd.shift_integers::<4>(negative),
            5 => simd.shift_integers::<5>(negative),
            _ => simd.shift_integers::<7>(negative),
        }
    }

    /// The `nth` group since the start.
    #[inline(always)]
    unsafe fn add_group<S: Simd, C: Codes, const G: usize>(
        self,
        simd: S,
        codes: *const u8,
        products: &mut Products<S, T>,
        nth: usize,
    ) {
        let Products { sums, partial } = products;
        // SAFETY: the promise of `add_block`'s caller.
        unsafe {
            let group = C::group::<S, G>(simd, codes);
            for t in 0..T {
                let values = simd.splat_four((&raw const (*self.token(t)).codes).cast::<i8>().add(G * 4));
                partial[t] = if C::LAYOUT.bits == 8 {
                    simd.dot_bytes(partial[t], group, values)
                } else {
                    simd.dot(partial[t], group, values)
                };
            }
        }
        if nth.is_multiple_of(S::capacity(C::LAYOUT.bits)) {
            for t in 0..T {
                sums[t] = simd.close(sums[t], partial[t]);
                partial[t] = simd.open(sums[t]);
            }
        }
    }

    #[inline(always)]
    unsafe fn finish<S: Simd, C: Codes>(
        self,
        simd: S,
        products: &Products<S, T>,
        scale: S::Vector,
        sums: &mut [S::Vector; T],
    ) {
        for t in 0..T {
            // SAFETY: the promise of `add_block`'s caller.
            sums[t] = unsafe { self.scaled::<S, C>(simd, t, products.sums[t], scale, sums[t]) };
        }
    }

    /// A token's products, times the scales, on top of `sum`.
    #[inline(always)]
    unsafe fn scaled<S: Simd, C: Codes>(
        self,
        simd: S,
        t: usize,
        products: S::Integers,
        scale: S::Vector,
        sum: S::Vector,
    ) -> S::Vector {
        // SAFETY: the promise of `add_block`'s caller.
        let token_scale = simd.splat(unsafe { (*self.token(t)).scale });
        let products = simd.to_floats(products);
        if C::ROW_SCALE {
            simd.mul_add(products, token_scale, sum)
        } else {
            simd.mul_add(simd.mul(products, token_scale), scale, sum)
        }
    }

    #[inline(always)]
    unsafe fn add_minimum<S: Simd, C: Codes>(self, simd: S, scales: &Scales<S::Vector>, sums: &mut [S::Vector; T]) {
        if C::MINIMUM {
            for t in 0..T {
                // SAFETY: the promise of `add_block`'s caller.
                let scaled_sum = simd.splat(unsafe { (*self.token(t)).scaled_sum });
                sums[t] = simd.mul_add(scales.minimum, scaled_sum, sums[t]);
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    All,
    First,
    Second,
}

/// Adds the bias, and stores the first `rows` lanes.
#[inline(always)]
unsafe fn store<S: Simd>(simd: S, item: &Item<'_>, token: usize, column: usize, rows: usize, value: S::Vector) {
    // SAFETY: the promise of `multiply`'s caller; the bias is there for all rows or none.
    unsafe {
        let out = item.out.pointer.add(token * item.out.stride + column);
        let mut value = value;
        if rows == LANES {
            if !item.bias.is_empty() {
                value = simd.add(value, simd.load(item.bias.as_ptr().add(column)));
            }
            if item.out.add {
                value = simd.add(simd.load(out), value);
            }
            simd.store(out, value);
        } else {
            if !item.bias.is_empty() {
                value = simd.add(value, load_first(simd, item.bias.as_ptr().add(column), rows));
            }
            if item.out.add {
                value = simd.add(load_first(simd, out, rows), value);
            }
            store_first(simd, out, value, rows);
        }
    }
}
