//! From rows as a file stores them to strips, in parallel.

use half::{bf16, f16};

use super::encoding::{BLOCK, Block};
use super::layout::{self, Layout};
use super::memory::Memory;
use super::{Format, Part, Stored};
use crate::pool::Rows;
use crate::simd::LANES;
use crate::{CpuKernels, KernelError};

/// Packs `parts`; neighbours of one format become one.
pub(super) fn pack(
    kernels: &CpuKernels,
    columns: usize,
    parts: &[Stored<'_>],
    format: Option<Format>,
) -> Result<Vec<Part>, KernelError> {
    if columns == 0 || parts.iter().all(|part| part.rows == 0) {
        return Err(KernelError::Config("a weight matrix has no rows or no columns".to_owned()));
    }
    for part in parts {
        check(columns, part, format)?;
    }
    let format_of = |part: &Stored<'_>| format.unwrap_or(part.encoding.format());
    let mut packed: Vec<Part> = Vec::new();
    let mut rest = parts;
    while let Some(first) = rest.first() {
        let format = format_of(first);
        let count = rest.iter().take_while(|part| format_of(part) == format).count();
        let first_row = packed.last().map_or(0, |part| part.first_row + part.rows);
        let (same, others) = rest.split_at(count);
        if same.iter().any(|part| part.rows > 0) {
            packed.push(pack_part(kernels, columns, first_row, same, format)?);
        }
        rest = others;
    }
    Ok(packed)
}

fn check(columns: usize, part: &Stored<'_>, format: Option<Format>) -> Result<(), KernelError> {
    let Stored { bytes, rows, encoding, interleaved_head } = *part;
    let Some(row_bytes) = encoding.row_bytes(columns) else {
        let text = format!("rows of {columns} values are not whole blocks of {encoding}");
        return Err(KernelError::Config(text));
    };
    if rows.checked_mul(row_bytes) != Some(bytes.len()) {
        let text = format!("{} bytes for {rows} rows of {columns} values in {encoding}", bytes.len());
        return Err(KernelError::Config(text));
    }
    if interleaved_head != 0 && (!interleaved_head.is_multiple_of(2) || !rows.is_multiple_of(interleaved_head)) {
        let text = format!("{rows} rows are not whole heads of {interleaved_head} interleaved rows");
        return Err(KernelError::Config(text));
    }
    match format {
        Some(Format::Int4 { group }) if ![32, 64, 128].contains(&group) => {
            Err(KernelError::Config(format!("int4 groups of {group} values: they may be 32, 64 or 128")))
        }
        None | Some(Format::F32 | Format::F16 | Format::Bf16 | Format::Int8 | Format::Int4 { .. }) => Ok(()),
        Some(format) if format == encoding.format() => Ok(()),
        Some(format) => Err(KernelError::Config(format!("{encoding} weights cannot be packed as {format}"))),
    }
}

fn pack_part(
    kernels: &CpuKernels,
    columns: usize,
    first_row: usize,
    stored: &[Stored<'_>],
    format: Format,
) -> Result<Part, KernelError> {
    let rows = stored.iter().map(|part| part.rows).sum::<usize>();
    let strip_bytes = layout::strip_bytes(format, columns);
    let mut memory = Memory::zeroed(rows.div_ceil(LANES) * strip_bytes)?;
    let strips = Rows::new(memory.slice_mut(), strip_bytes);
    kernels.pool.for_each(rows.div_ceil(LANES), |_, index| {
        // SAFETY: each index is handed out once.
        let strip = unsafe { strips.row(index) };
        let first = index * LANES;
        for lane in 0..LANES.min(rows - first) {
            let (part, row) = find_row(stored, first + lane, columns);
            pack_row(format, strip, lane, part, row, columns);
        }
    });
    Ok(Part { format, first_row, rows, columns, strip_bytes, memory })
}

/// Where the bytes of row `index` of all parts are.
fn find_row<'a, 'b>(stored: &'b [Stored<'a>], mut index: usize, columns: usize) -> (&'b Stored<'a>, &'a [u8]) {
    for part in stored {
        if index < part.rows {
            let row = match part.interleaved_head {
                0 => index,
                head => {
                    let (at, half) = (index % head, head / 2);
                    index - at + at % half * 2 + at / half
                }
            };
            let row_bytes = part.encoding.row_bytes(columns).expect("checked before");
            return (part, &part.bytes[row * row_bytes..][..row_bytes]);
        }
        index -= part.rows;
    }
    unreachable!("the index is below the sum of the rows")
}

fn pack_row(format: Format, strip: &mut [u8], lane: usize, part: &Stored<'_>, row: &[u8], columns: usize) {
    if let Some(layout) = Layout::of(format)
        && format == part.encoding.format()
    {
        for index in 0..columns / BLOCK {
            layout::write_block(format, layout, strip, lane, index, &part.encoding.block(row, index));
        }
        return;
    }
    let mut values = vec![0.0_f32; columns.next_multiple_of(BLOCK)];
    part.encoding.decode(row, &mut values[..columns]);
    match format {
        Format::F32 => write_floats(format, strip, lane, &values[..columns], f32::to_le_bytes),
        Format::F16 => write_floats(format, strip, lane, &values[..columns], |x| f16::from_f32(x).to_le_bytes()),
        Format::Bf16 => write_floats(format, strip, lane, &values[..columns], |x| bf16::from_f32(x).to_le_bytes()),
        Format::Int8 => quantise_row(strip, lane, &values),
        Format::Int4 { group } => {
            for (index, values) in values.chunks(group).enumerate() {
                quantise_group(format, strip, lane, index * group / BLOCK, values);
            }
        }
        _ => unreachable!("checked before"),
    }
}

fn write_floats<const N: usize>(
    format: Format,
    strip: &mut [u8],
    lane: usize,
    values: &[f32],
    bytes: impl Fn(f32) -> [u8; N],
) {
    for (column, &value) in values.iter().enumerate() {
        strip[layout::float_at(format, column, lane)..][..N].copy_from_slice(&bytes(value));
    }
}

/// Int8: the largest value becomes ±127.
fn quantise_row(strip: &mut [u8], lane: usize, values: &[f32]) {
    let layout = Layout::of(Format::Int8).expect("quantised");
    let largest = values.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
    let scale = largest / 127.0;
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    layout::write_row_scale(strip, lane, scale);
    for (index, values) in values.chunks_exact(BLOCK).enumerate() {
        let mut block = Block::EMPTY;
        for (code, value) in block.codes.iter_mut().zip(values) {
            *code = ((value * inverse).round_ties_even() as i32 + 128) as u8;
        }
        layout::write_block(Format::Int8, layout, strip, lane, index, &block);
    }
}

/// Int4: codes from 0 to 15 from the smallest value to the largest.
fn quantise_group(format: Format, strip: &mut [u8], lane: usize, first: usize, values: &[f32]) {
    let layout = Layout::of(format).expect("quantised");
    let (smallest, largest) = values.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(a, b), &x| (a.min(x), b.max(x)));
    let scale = f16::from_f32((largest - smallest) / 15.0);
    let minimum = f16::from_f32(smallest);
    let inverse = if scale > f16::ZERO { 1.0 / scale.to_f32() } else { 0.0 };
    for (index, values) in values.chunks_exact(BLOCK).enumerate() {
        let mut block = Block { scale, minimum, ..Block::EMPTY };
        for (code, value) in block.codes.iter_mut().zip(values) {
            *code = ((value - minimum.to_f32()) * inverse).round_ties_even().clamp(0.0, 15.0) as u8;
        }
        layout::write_block(format, layout, strip, lane, first + index, &block);
    }
}

/// The values of a part's row.
pub(super) fn read_row(part: &Part, row: usize, out: &mut [f32]) {
    // SAFETY: a strip lies inside the memory, and nobody writes it after it was packed.
    let strip = unsafe { std::slice::from_raw_parts(part.strip(row / LANES), part.strip_bytes) };
    let lane = row % LANES;
    let Some(layout) = Layout::of(part.format) else {
        for (column, value) in out.iter_mut().enumerate() {
            let at = layout::float_at(part.format, column, lane);
            let two = || u16::from_le_bytes([strip[at], strip[at + 1]]);
            *value = match part.format {
                Format::F16 => f16::from_bits(two()).to_f32(),
                Format::Bf16 => bf16::from_bits(two()).to_f32(),
                _ => f32::from_le_bytes([strip[at], strip[at + 1], strip[at + 2], strip[at + 3]]),
            };
        }
        return;
    };
    for (index, values) in out.chunks_mut(BLOCK).enumerate() {
        let block = layout::read_block(part.format, layout, strip, lane, index);
        let decoded = match part.format {
            Format::Int8 => {
                let scale = layout::read_row_scale(strip, lane);
                block.codes.map(|code| (f32::from(code) - 128.0) * scale)
            }
            format => block.values(format),
        };
        values.copy_from_slice(&decoded[..values.len()]);
    }
}
