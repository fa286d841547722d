//! Where the numbers of a strip lie: 16 rows, all columns.
//!
//! Quantised formats: blocks of 32 columns behind headers of scales, everything on cache lines. A header serves one or
//! more blocks. A block's codes come in groups of 4 columns: 64 bytes, lane (row) by lane 4 neighbours, which is what
//! integer dot products take. Codes of 4 to 6 bits: cache line j holds the low nibbles of group j and, high, those of
//! group j + 4. A fifth bit: one more line, whose bit g is that of group g. Sixth bits: two more lines; bits 2j and
//! 2j + 1 of the first are those of group j, and of the second those of group j + 4.
//!
//! Floats: a line of 16 for each column; bfloat16 in lines of two columns, neighbours beside each other, which is what
//! its dot products take.

use half::f16;

use super::Format;
use super::encoding::{BLOCK, Block};
use crate::simd::LANES;

/// A group's codes: 16 rows, 4 columns.
pub(super) const LINE: usize = 64;

/// The layout of a quantised format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) header: usize,
    /// Blocks that a header serves.
    pub(super) blocks: usize,
    pub(super) bits: usize,
}

impl Layout {
    pub(super) const fn new(header: usize, blocks: usize, bits: usize) -> Self {
        Self { header, blocks, bits }
    }

    /// None for plain floats.
    #[inline(always)]
    pub(super) fn of(format: Format) -> Option<Self> {
        Some(match format {
            Format::F32 | Format::F16 | Format::Bf16 => return None,
            Format::Int8 => Self::new(LINE, WHOLE_ROW, 8),
            Format::Int4 { group } => Self::new(LINE, group / BLOCK, 4),
            Format::Q4_0 => Self::new(LINE, 2, 4),
            Format::Q4_1 => Self::new(LINE, 1, 4),
            Format::Q5_0 => Self::new(LINE, 2, 5),
            Format::Q5_1 => Self::new(LINE, 1, 5),
            Format::Q8_0 => Self::new(LINE, 2, 8),
            Format::Q4K => Self::new(LINE + 8 * STEPS, 8, 4),
            Format::Q5K => Self::new(LINE + 8 * STEPS, 8, 5),
            Format::Q6K => Self::new(LINE + 8 * STEPS, 8, 6),
        })
    }

    #[inline(always)]
    pub(super) const fn block_bytes(self) -> usize {
        self.bits * LINE
    }

    /// Offsets of block `index`'s header and codes in a strip.
    #[inline(always)]
    pub(super) const fn at(self, index: usize) -> (usize, usize) {
        let header = index / self.blocks * (self.header + self.blocks * self.block_bytes());
        (header, header + self.header + index % self.blocks * self.block_bytes())
    }

    pub(super) const fn strip_bytes(self, blocks: usize) -> usize {
        blocks.div_ceil(self.blocks) * self.header + blocks * self.block_bytes()
    }
}

/// More blocks than a row has.
pub(super) const WHOLE_ROW: usize = 1 << 32;

/// K-quants: bytes of the steps of a block, 16 rows and two kinds.
pub(super) const STEPS: usize = 2 * LANES;

/// Columns of bfloat16 that an AMX tile takes.
const TILE: usize = 32;

/// Bytes of a strip.
pub(super) fn strip_bytes(format: Format, columns: usize) -> usize {
    match Layout::of(format) {
        Some(layout) => layout.strip_bytes(columns.div_ceil(BLOCK)),
        None if format == Format::F32 => columns * LANES * 4,
        None if format == Format::Bf16 => columns.next_multiple_of(TILE) * LANES * 2,
        None => columns * LANES * 2,
    }
}

/// Offset of a float in a strip.
#[inline(always)]
pub(super) fn float_at(format: Format, column: usize, lane: usize) -> usize {
    match format {
        Format::F32 => 4 * (column * LANES + lane),
        Format::Bf16 => 4 * (column / 2 * LANES + lane) + column % 2 * 2,
        _ => 2 * (column * LANES + lane),
    }
}

/// Puts block `index` of row `lane` into a strip.
#[inline(always)]
pub(super) fn write_block(format: Format, layout: Layout, strip: &mut [u8], lane: usize, index: usize, block: &Block) {
    let (header, codes) = layout.at(index);
    write_codes(layout.bits, &mut strip[codes..codes + layout.block_bytes()], lane, &block.codes);
    let within = index % layout.blocks;
    let header = &mut strip[header..header + layout.header];
    match format {
        Format::Q4_0 | Format::Q5_0 | Format::Q8_0 => write_half(header, within * LANES + lane, block.scale),
        Format::Q4K | Format::Q5K | Format::Q6K => {
            write_half(header, lane, block.scale);
            write_half(header, LANES + lane, block.minimum);
            header[LINE + within * STEPS + lane] = block.steps[0];
            header[LINE + within * STEPS + LANES + lane] = block.steps[1];
        }
        Format::Int8 => {}
        _ => {
            write_half(header, lane, block.scale);
            write_half(header, LANES + lane, block.minimum);
        }
    }
}

/// Block `index` of row `lane`, as it was written.
pub(super) fn read_block(format: Format, layout: Layout, strip: &[u8], lane: usize, index: usize) -> Block {
    let (header, codes) = layout.at(index);
    let mut block = Block { codes: read_codes(layout.bits, &strip[codes..], lane), ..Block::EMPTY };
    let within = index % layout.blocks;
    let header = &strip[header..header + layout.header];
    match format {
        Format::Q4_0 | Format::Q5_0 | Format::Q8_0 => block.scale = read_half(header, within * LANES + lane),
        Format::Q4K | Format::Q5K | Format::Q6K => {
            block.scale = read_half(header, lane);
            block.minimum = read_half(header, LANES + lane);
            block.steps = [0, LANES].map(|kind| header[LINE + within * STEPS + kind + lane]);
        }
        Format::Int8 => {}
        _ => {
            block.scale = read_half(header, lane);
            block.minimum = read_half(header, LANES + lane);
        }
    }
    block
}

/// Int8: the scale of row `lane`.
pub(super) fn write_row_scale(strip: &mut [u8], lane: usize, scale: f32) {
    strip[lane * 4..lane * 4 + 4].copy_from_slice(&scale.to_le_bytes());
}

pub(super) fn read_row_scale(strip: &[u8], lane: usize) -> f32 {
    f32::from_le_bytes([strip[lane * 4], strip[lane * 4 + 1], strip[lane * 4 + 2], strip[lane * 4 + 3]])
}

#[inline(always)]
fn write_half(header: &mut [u8], at: usize, value: f16) {
    header[at * 2..at * 2 + 2].copy_from_slice(&value.to_le_bytes());
}

fn read_half(header: &[u8], at: usize) -> f16 {
    f16::from_le_bytes([header[at * 2], header[at * 2 + 1]])
}

#[inline(always)]
fn write_codes(bits: usize, out: &mut [u8], lane: usize, codes: &[u8; BLOCK]) {
    let line = |index: usize| index * LINE + lane * 4..index * LINE + lane * 4 + 4;
    let group = |index: usize| {
        u32::from_le_bytes([codes[index * 4], codes[index * 4 + 1], codes[index * 4 + 2], codes[index * 4 + 3]])
    };
    if bits == 8 {
        for index in 0..8 {
            out[line(index)].copy_from_slice(&group(index).to_le_bytes());
        }
        return;
    }
    for index in 0..4 {
        let low = group(index) & 0x0f0f_0f0f;
        let high = group(index + 4) & 0x0f0f_0f0f;
        out[line(index)].copy_from_slice(&(low | high << 4).to_le_bytes());
    }
    if bits == 5 {
        let fifth = (0..8).fold(0, |bits, index| bits | (group(index) >> 4 & 0x0101_0101) << index);
        out[line(4)].copy_from_slice(&fifth.to_le_bytes());
    }
    if bits == 6 {
        for half in 0..2 {
            let upper =
                (0..4).fold(0, |bits, index| bits | (group(half * 4 + index) >> 4 & 0x0303_0303) << (2 * index));
            out[line(4 + half)].copy_from_slice(&upper.to_le_bytes());
        }
    }
}

fn read_codes(bits: usize, from: &[u8], lane: usize) -> [u8; BLOCK] {
    let mut codes = [0; BLOCK];
    for (index, code) in codes.iter_mut().enumerate() {
        let (group, column) = (index / 4, index % 4);
        let byte = |line: usize| from[line * LINE + lane * 4 + column];
        if bits == 8 {
            *code = byte(group);
            continue;
        }
        *code = byte(group % 4) >> (group / 4 * 4) & 15;
        if bits == 5 {
            *code |= (byte(4) >> group & 1) << 4;
        }
        if bits == 6 {
            *code |= (byte(4 + group / 4) >> (2 * (group % 4)) & 3) << 4;
        }
    }
    codes
}
