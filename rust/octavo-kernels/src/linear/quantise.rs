//! Codes for weights that are stored as something else.

use half::f16;

use super::Format;
use super::encoding::{BLOCK, Block};
use super::layout::{self, Layout};

/// The steps of int4's search: 15 of them from the smallest value to the largest, or a little fewer or more, which clips
/// the largest. Over normal weights the search takes an eighth off the squared error.
const STEPS: [f32; 8] = [15.0, 14.1, 14.4, 14.7, 15.4, 15.8, 16.3, 16.8];

/// Adding it leaves no bits for a fraction: to the nearest integer, for magnitudes below 2^22.
const ROUND: f32 = 12_582_912.0;

/// Int8: the largest value becomes ±127.
#[inline(always)]
pub(super) fn int8_row(strip: &mut [u8], lane: usize, values: &[f32]) {
    let layout = Layout::of(Format::Int8).expect("quantised");
    let largest = values.iter().fold(0.0_f32, |largest, x| if x.abs() > largest { x.abs() } else { largest });
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
pub(super) fn int4_row(strip: &mut [u8], lane: usize, values: &[f32], group: usize) {
    let format = Format::Int4 { group };
    let layout = Layout::of(format).expect("quantised");
    for (index, values) in values.chunks(group).enumerate() {
        let (scale, minimum) = fit(values);
        let (scale, minimum) = (f16::from_f32(scale), f16::from_f32(minimum));
        let inverse = if scale.to_f32() > 0.0 { 1.0 / scale.to_f32() } else { 0.0 };
        for (within, values) in values.chunks(BLOCK).enumerate() {
            let mut block = Block { scale, minimum, ..Block::EMPTY };
            for (code, value) in block.codes.iter_mut().zip(values) {
                *code = code_of(*value, minimum.to_f32(), inverse) as u8;
            }
            layout::write_block(format, layout, strip, lane, index * group / BLOCK + within, &block);
        }
    }
}

#[inline(always)]
fn code_of(value: f32, minimum: f32, inverse: f32) -> f32 {
    ((value - minimum) * inverse + ROUND - ROUND).clamp(0.0, 15.0)
}

/// Scale and minimum for codes from 0 to 15: for each of `STEPS` the codes, and for these the best line through them.
#[inline(always)]
fn fit(values: &[f32]) -> (f32, f32) {
    let (mut smallest, mut largest) = (f32::INFINITY, f32::NEG_INFINITY);
    for &x in values {
        smallest = if x < smallest { x } else { smallest };
        largest = if x > largest { x } else { largest };
    }
    let range = largest - smallest;
    if range.is_nan() || range <= 0.0 {
        return (0.0, smallest);
    }
    let count = values.len() as f32;
    let (mut best, mut least) = ((range / 15.0, smallest), f32::INFINITY);
    for steps in STEPS {
        let inverse = steps / range;
        let (mut codes, mut squares, mut total, mut products) = (0.0_f32, 0.0_f32, 0.0_f32, 0.0_f32);
        for &x in values {
            // From the smallest value, so that the sums keep their digits where a group lies far from zero.
            let (code, x) = (code_of(x, smallest, inverse), x - smallest);
            codes += code;
            squares += code * code;
            total += x;
            products += code * x;
        }
        let determinant = count * squares - codes * codes;
        if determinant <= 0.0 {
            continue;
        }
        let scale = (count * products - codes * total) / determinant;
        let minimum = (total - scale * codes) / count;
        let mut error = 0.0_f32;
        for &x in values {
            let difference = code_of(x, smallest, inverse) * scale + minimum - (x - smallest);
            error += difference * difference;
        }
        if error < least {
            (best, least) = ((scale, minimum + smallest), error);
        }
    }
    best
}
