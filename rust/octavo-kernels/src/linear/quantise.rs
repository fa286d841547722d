//! Codes for weights that are stored as something else.

use half::f16;

use super::Format;
use super::encoding::{BLOCK, Block};
use super::layout::{self, Layout};
use crate::simd::{LANES, Simd, load_slice};

/// The steps of int4's search: 15 of them from the smallest value to the largest, or a little fewer or more, which clips
/// the largest. On normal weights it takes 19% off the squared error in groups of 32, and 13% in groups of 128.
const STEPS: [f32; 8] = [15.0, 14.1, 14.4, 14.7, 15.4, 15.8, 16.3, 16.8];

/// Values of the largest group.
const MOST: usize = 128;

/// Adding it leaves no bits for a fraction: to the nearest integer, for magnitudes below 2^22.
const ROUND: f32 = 12_582_912.0;

/// Int8: the largest value becomes ±127.
#[inline(always)]
pub(super) fn int8_row<S: Simd>(simd: S, strip: &mut [u8], lane: usize, values: &[f32]) {
    let layout = Layout::of(Format::Int8).expect("quantised");
    let mut size = simd.splat(0.0);
    for at in (0..values.len()).step_by(LANES) {
        let x = load_slice(simd, values, at);
        size = simd.max(size, simd.max(x, simd.sub(simd.splat(0.0), x)));
    }
    let largest = simd.largest(size);
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    layout::write_row_scale(strip, lane, largest / 127.0);
    for (index, values) in values.chunks(BLOCK).enumerate() {
        let mut block = Block { codes: [128; BLOCK], ..Block::EMPTY };
        for (code, value) in block.codes.iter_mut().zip(values) {
            *code = ((value * inverse + ROUND - ROUND) as i32 + 128) as u8;
        }
        layout::write_block(Format::Int8, layout, strip, lane, index, &block);
    }
}

/// Int4: 16 evenly spaced values for each group, those with the least squared error of some.
#[inline(always)]
pub(super) fn int4_row<S: Simd>(simd: S, strip: &mut [u8], lane: usize, values: &[f32], group: usize) {
    let format = Format::Int4 { group };
    let layout = Layout::of(format).expect("quantised");
    for (index, values) in values.chunks(group).enumerate() {
        let (scale, minimum) = fit(simd, values);
        let (scale, minimum) = (f16::from_f32(scale), f16::from_f32(minimum));
        let inverse = if scale.to_f32() > 0.0 { 1.0 / scale.to_f32() } else { 0.0 };
        for (within, values) in values.chunks(BLOCK).enumerate() {
            let mut block = Block { scale, minimum, ..Block::EMPTY };
            for (code, value) in block.codes.iter_mut().zip(values) {
                *code = ((value - minimum.to_f32()) * inverse + ROUND - ROUND).clamp(0.0, 15.0) as u8;
            }
            layout::write_block(format, layout, strip, lane, index * group / BLOCK + within, &block);
        }
    }
}

/// Scale and minimum for codes from 0 to 15: for each of `STEPS` the codes, and for these the best line through them.
#[inline(always)]
fn fit<S: Simd>(simd: S, values: &[f32]) -> (f32, f32) {
    // A last group that is not whole vectors: its first value counts for what is missing.
    let mut padded = [values[0]; MOST];
    padded[..values.len()].copy_from_slice(values);
    let values = &padded[..values.len().next_multiple_of(LANES)];

    let zero = simd.splat(0.0);
    let mut largest = simd.splat(f32::NEG_INFINITY);
    let mut negative = largest;
    for at in (0..values.len()).step_by(LANES) {
        let x = load_slice(simd, values, at);
        largest = simd.max(largest, x);
        negative = simd.max(negative, simd.sub(zero, x));
    }
    let smallest = -simd.largest(negative);
    let range = simd.largest(largest) - smallest;
    if range.is_nan() || range <= 0.0 {
        return (0.0, smallest);
    }
    let count = values.len() as f32;
    let (mut best, mut least) = ((range / 15.0, smallest), f32::INFINITY);
    for steps in STEPS {
        let inverse = simd.splat(steps / range);
        let (mut codes, mut squares, mut total, mut products) = (zero, zero, zero, zero);
        for at in (0..values.len()).step_by(LANES) {
            // From the smallest value, so that the sums keep their digits where a group lies far from zero.
            let x = simd.sub(load_slice(simd, values, at), simd.splat(smallest));
            let code = simd.min(simd.round(simd.mul(x, inverse)), simd.splat(15.0));
            codes = simd.add(codes, code);
            squares = simd.mul_add(code, code, squares);
            total = simd.add(total, x);
            products = simd.mul_add(code, x, products);
        }
        let (codes, total) = (simd.sum(codes), simd.sum(total));
        let determinant = count * simd.sum(squares) - codes * codes;
        if determinant <= 0.0 {
            continue;
        }
        let scale = (count * simd.sum(products) - codes * total) / determinant;
        let minimum = (total - scale * codes) / count;
        let mut error = zero;
        for at in (0..values.len()).step_by(LANES) {
            let x = simd.sub(load_slice(simd, values, at), simd.splat(smallest));
            let code = simd.min(simd.round(simd.mul(x, inverse)), simd.splat(15.0));
            let difference = simd.sub(simd.mul_add(code, simd.splat(scale), simd.splat(minimum)), x);
            error = simd.mul_add(difference, difference, error);
        }
        let error = simd.sum(error);
        if error < least {
            (best, least) = ((scale, minimum + smallest), error);
        }
    }
    best
}
