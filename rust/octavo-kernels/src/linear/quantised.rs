//! The kernel of quantised weights: tiles of tokens × strips, summed in integers a block and in floats over the blocks.

use super::Format;
use super::Item;
use super::activations::Coded;
use super::codes::{Asymmetric, Codes, RowScaled, SixBits, Stepped, Symmetric};
use super::layout::Layout;
use crate::simd::{LANES, Simd, load_first, store_first};

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

#[inline(always)]
unsafe fn product<S: Simd, C: Codes>(simd: S, item: &Item<'_>) {
    debug_assert_eq!(Some(C::LAYOUT), Layout::of(item.part.format));
    for strip in item.strips.clone() {
        let mut token = item.tokens.start;
        while token < item.tokens.end {
            // SAFETY: the promise of `multiply`'s caller.
            unsafe {
                match item.tokens.end - token {
                    1 => tile::<S, C, 1>(simd, item, strip, token),
                    2 => tile::<S, C, 2>(simd, item, strip, token),
                    3 => tile::<S, C, 3>(simd, item, strip, token),
                    _ => tile::<S, C, 4>(simd, item, strip, token),
                }
            }
            token += (item.tokens.end - token).min(4);
        }
    }
}

/// T tokens by one strip.
#[inline(always)]
unsafe fn tile<S: Simd, C: Codes, const T: usize>(simd: S, item: &Item<'_>, strip: usize, token: usize) {
    let weights = item.part.strip(strip);
    let blocks = item.input.blocks();
    let tokens = item.input.coded(token);
    let mut sums = [simd.splat(0.0); T];
    // SAFETY: the promise of `multiply`'s caller; a strip has `blocks` blocks, as has a token.
    unsafe {
        for block in 0..blocks {
            let (header, codes) = C::LAYOUT.at(block);
            let scales = C::scales(simd, weights.add(header), block % C::LAYOUT.blocks);
            let codes = weights.add(codes);
            for t in 0..T {
                let coded = tokens.add(t * blocks + block);
                let scale = simd.splat((*coded).scale);
                if C::HALVES {
                    let (first, all) = ((*coded).half_sum, (*coded).sum);
                    let low = half::<S, C, 0>(simd, codes, coded, offset::<S, C>(simd, first));
                    sums[t] = simd.mul_add(simd.mul(simd.to_floats(low), scale), scales.scales[0], sums[t]);
                    let high = half::<S, C, 1>(simd, codes, coded, offset::<S, C>(simd, all - first));
                    sums[t] = simd.mul_add(simd.mul(simd.to_floats(high), scale), scales.scales[1], sums[t]);
                } else {
                    let start = if C::MINIMUM { simd.splat_integer(0) } else { offset::<S, C>(simd, (*coded).sum) };
                    let low = half::<S, C, 0>(simd, codes, coded, start);
                    let sum = half::<S, C, 1>(simd, codes, coded, low);
                    let value = simd.mul(simd.to_floats(sum), scale);
                    sums[t] = if C::ROW_SCALE {
                        simd.add(sums[t], value)
                    } else {
                        simd.mul_add(value, scales.scales[0], sums[t])
                    };
                    if C::MINIMUM {
                        sums[t] = simd.mul_add(scales.minimum, simd.splat((*coded).scaled_sum), sums[t]);
                    }
                }
            }
        }
        let rows = (item.part.rows - strip * LANES).min(LANES);
        let column = (strip - item.strips.start) * LANES;
        for (t, &sum) in sums.iter().enumerate() {
            let mut value = sum;
            if C::ROW_SCALE {
                value = simd.mul(value, C::scales(simd, weights, 0).scales[0]);
            }
            store(simd, item, token + t - item.tokens.start, column, rows, value);
        }
    }
}

#[inline(always)]
fn offset<S: Simd, C: Codes>(simd: S, sum: i32) -> S::Integers {
    if C::LAYOUT.bits == 8 && !S::UNSIGNED_CODES {
        simd.splat_integer(0)
    } else {
        simd.splat_integer(-(sum << C::OFFSET_BITS))
    }
}

/// The products of groups 4 · H to 4 · H + 3 with a token, onto `sums`.
#[inline(always)]
unsafe fn half<S: Simd, C: Codes, const H: usize>(
    simd: S,
    codes: *const u8,
    coded: *const Coded,
    mut sums: S::Integers,
) -> S::Integers {
    // SAFETY: the promise of `multiply`'s caller.
    unsafe {
        let values = (&raw const (*coded).codes).cast::<i8>().add(H * 16);
        let groups = if H == 0 {
            [
                C::group::<S, 0>(simd, codes),
                C::group::<S, 1>(simd, codes),
                C::group::<S, 2>(simd, codes),
                C::group::<S, 3>(simd, codes),
            ]
        } else {
            [
                C::group::<S, 4>(simd, codes),
                C::group::<S, 5>(simd, codes),
                C::group::<S, 6>(simd, codes),
                C::group::<S, 7>(simd, codes),
            ]
        };
        for (index, group) in groups.into_iter().enumerate() {
            let mut partial = simd.open(sums);
            let four = simd.splat_four(values.add(index * 4));
            partial =
                if C::LAYOUT.bits == 8 { simd.dot_bytes(partial, group, four) } else { simd.dot(partial, group, four) };
            sums = simd.close(sums, partial);
        }
        sums
    }
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
