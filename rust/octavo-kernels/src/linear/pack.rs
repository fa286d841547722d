//! From rows as a file stores them to strips, in parallel.

use half::{bf16, f16};

use super::encoding::{BLOCK, Encoding};
use super::layout::{self, Layout};
use super::memory::Memory;
use super::{Format, Part, Stored, quantise};
use crate::pool::Rows;
use crate::simd::{Kernel, LANES, Simd};
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
        kernels.run(PackStrip { format, strip, stored, first: index * LANES, rows, columns });
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

/// The rows from `first`, at most 16, of all that are stored. A kernel, so that the compiler has the vectors it needs.
struct PackStrip<'a> {
    format: Format,
    strip: &'a mut [u8],
    stored: &'a [Stored<'a>],
    first: usize,
    rows: usize,
    columns: usize,
}

impl Kernel for PackStrip<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { format, strip, stored, first, rows, columns } = self;
        let mut values = Vec::new();
        for lane in 0..LANES.min(rows - first) {
            let (part, row) = find_row(stored, first + lane, columns);
            if format.is_quantised() && format == part.encoding.format() {
                keep_row(part.encoding, strip, lane, row);
            } else {
                values.resize(columns, 0.0);
                part.encoding.decode(row, &mut values);
                write_row(simd, format, strip, lane, &values);
            }
        }
    }
}

/// Each call is compiled for its encoding alone.
#[inline(always)]
fn keep_row(encoding: Encoding, strip: &mut [u8], lane: usize, row: &[u8]) {
    match encoding {
        Encoding::Q4_0 => keep_blocks(Encoding::Q4_0, strip, lane, row),
        Encoding::Q4_1 => keep_blocks(Encoding::Q4_1, strip, lane, row),
        Encoding::Q5_0 => keep_blocks(Encoding::Q5_0, strip, lane, row),
        Encoding::Q5_1 => keep_blocks(Encoding::Q5_1, strip, lane, row),
        Encoding::Q8_0 => keep_blocks(Encoding::Q8_0, strip, lane, row),
        Encoding::Q4K => keep_blocks(Encoding::Q4K, strip, lane, row),
        Encoding::Q5K => keep_blocks(Encoding::Q5K, strip, lane, row),
        Encoding::Q6K => keep_blocks(Encoding::Q6K, strip, lane, row),
        Encoding::F32 | Encoding::F16 | Encoding::Bf16 => unreachable!("plain floats have no blocks"),
    }
}

#[inline(always)]
fn keep_blocks(encoding: Encoding, strip: &mut [u8], lane: usize, row: &[u8]) {
    let format = encoding.format();
    let layout = Layout::of(format).expect("quantised");
    let (values, bytes) = encoding.unit();
    for (unit, bytes) in row.chunks_exact(bytes).enumerate() {
        for index in 0..values / BLOCK {
            let block = encoding.block(bytes, index);
            layout::write_block(format, layout, strip, lane, unit * (values / BLOCK) + index, &block);
        }
    }
}

#[inline(always)]
fn write_row<S: Simd>(simd: S, format: Format, strip: &mut [u8], lane: usize, values: &[f32]) {
    match format {
        Format::F32 => write_floats(format, strip, lane, values, f32::to_le_bytes),
        Format::F16 => write_floats(format, strip, lane, values, |x| f16::from_f32(x).to_le_bytes()),
        Format::Bf16 => write_floats(format, strip, lane, values, |x| bf16::from_f32(x).to_le_bytes()),
        Format::Int8 => quantise::int8_row(simd, strip, lane, values),
        Format::Int4 { group } => quantise::int4_row(simd, strip, lane, values, group),
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
