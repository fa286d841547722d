//! How files store numbers: plain floats, and the block formats of GGUF.
//!
//! Every block format is read 32 values at a time, as a `Block`: unsigned codes and what turns them into values. The
//! K-quants have superblocks of 256 values: a `Block` is an eighth of one.

use std::fmt;
use std::str::FromStr;

use half::f16;

use super::Format;
use crate::KernelError;

/// How a file stores a row. The names are those of GGML.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

const ALL: [Encoding; 11] = [
    Encoding::F32,
    Encoding::F16,
    Encoding::Bf16,
    Encoding::Q4_0,
    Encoding::Q4_1,
    Encoding::Q5_0,
    Encoding::Q5_1,
    Encoding::Q8_0,
    Encoding::Q4K,
    Encoding::Q5K,
    Encoding::Q6K,
];

impl Encoding {
    pub fn name(self) -> &'static str {
        match self {
            Encoding::F32 => "F32",
            Encoding::F16 => "F16",
            Encoding::Bf16 => "BF16",
            Encoding::Q4_0 => "Q4_0",
            Encoding::Q4_1 => "Q4_1",
            Encoding::Q5_0 => "Q5_0",
            Encoding::Q5_1 => "Q5_1",
            Encoding::Q8_0 => "Q8_0",
            Encoding::Q4K => "Q4_K",
            Encoding::Q5K => "Q5_K",
            Encoding::Q6K => "Q6_K",
        }
    }

    /// The format that keeps exactly what is stored.
    pub fn format(self) -> Format {
        match self {
            Encoding::F32 => Format::F32,
            Encoding::F16 => Format::F16,
            Encoding::Bf16 => Format::Bf16,
            Encoding::Q4_0 => Format::Q4_0,
            Encoding::Q4_1 => Format::Q4_1,
            Encoding::Q5_0 => Format::Q5_0,
            Encoding::Q5_1 => Format::Q5_1,
            Encoding::Q8_0 => Format::Q8_0,
            Encoding::Q4K => Format::Q4K,
            Encoding::Q5K => Format::Q5K,
            Encoding::Q6K => Format::Q6K,
        }
    }

    /// Values and bytes of the smallest unit.
    pub fn unit(self) -> (usize, usize) {
        match self {
            Encoding::F32 => (1, 4),
            Encoding::F16 | Encoding::Bf16 => (1, 2),
            Encoding::Q4_0 => (32, 18),
            Encoding::Q4_1 => (32, 20),
            Encoding::Q5_0 => (32, 22),
            Encoding::Q5_1 => (32, 24),
            Encoding::Q8_0 => (32, 34),
            Encoding::Q4K => (256, 144),
            Encoding::Q5K => (256, 176),
            Encoding::Q6K => (256, 210),
        }
    }

    /// Bytes of a row of `columns` values; None if these are not whole units.
    pub fn row_bytes(self, columns: usize) -> Option<usize> {
        let (values, bytes) = self.unit();
        columns.is_multiple_of(values).then(|| columns / values * bytes)
    }

    /// The values of a row.
    #[inline(always)]
    pub(super) fn decode(self, row: &[u8], out: &mut [f32]) {
        let half = |bytes: &[u8]| u16::from_le_bytes([bytes[0], bytes[1]]);
        match self {
            Encoding::F32 => {
                for (value, bytes) in out.iter_mut().zip(row.chunks_exact(4)) {
                    *value = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
                }
            }
            Encoding::F16 => {
                for (value, bytes) in out.iter_mut().zip(row.chunks_exact(2)) {
                    *value = f16::from_bits(half(bytes)).to_f32();
                }
            }
            Encoding::Bf16 => {
                for (value, bytes) in out.iter_mut().zip(row.chunks_exact(2)) {
                    *value = f32::from_bits(u32::from(half(bytes)) << 16);
                }
            }
            _ => {
                for (index, values) in out.chunks_exact_mut(BLOCK).enumerate() {
                    values.copy_from_slice(&self.block(row, index).values(self.format()));
                }
            }
        }
    }

    /// The 32 values from 32 · `index` of a row of blocks.
    #[inline(always)]
    pub(super) fn block(self, row: &[u8], index: usize) -> Block {
        let (values, bytes) = self.unit();
        let per_unit = values / BLOCK;
        let unit = &row[index / per_unit * bytes..][..bytes];
        match self {
            Encoding::Q4_0 => Block { codes: nibbles(&unit[2..]), scale: half(unit, 0), ..Block::EMPTY },
            Encoding::Q4_1 => {
                Block { codes: nibbles(&unit[4..]), scale: half(unit, 0), minimum: half(unit, 2), ..Block::EMPTY }
            }
            Encoding::Q5_0 => {
                Block { codes: with_fifth(nibbles(&unit[6..]), &unit[2..]), scale: half(unit, 0), ..Block::EMPTY }
            }
            Encoding::Q5_1 => Block {
                codes: with_fifth(nibbles(&unit[8..]), &unit[4..]),
                scale: half(unit, 0),
                minimum: half(unit, 2),
                ..Block::EMPTY
            },
            Encoding::Q8_0 => {
                let mut codes = [0; BLOCK];
                codes.iter_mut().zip(&unit[2..]).for_each(|(code, stored)| *code = stored ^ 0x80);
                Block { codes, scale: half(unit, 0), ..Block::EMPTY }
            }
            Encoding::Q4K | Encoding::Q5K => super_block(self, unit, index % 8),
            Encoding::Q6K => super_block_of_six_bits(unit, index % 8),
            Encoding::F32 | Encoding::F16 | Encoding::Bf16 => unreachable!("plain floats have no blocks"),
        }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Encoding {
    type Err = KernelError;

    fn from_str(name: &str) -> Result<Self, KernelError> {
        let known = ALL.into_iter().find(|encoding| encoding.name() == name);
        known.ok_or_else(|| KernelError::Config(format!("unknown encoding {name:?}")))
    }
}

/// Values that share a scale in the int8 codes of the activations, and so in every kernel.
pub(crate) const BLOCK: usize = 32;

/// 32 weights of a row: unsigned codes, and what turns them into values.
#[derive(Clone, Copy)]
pub(super) struct Block {
    pub(super) codes: [u8; BLOCK],
    pub(super) scale: f16,
    pub(super) minimum: f16,
    /// K-quants: the factor of `scale`, and that of `minimum`; Q6_K: the (signed) factors of `scale` for each half.
    pub(super) steps: [u8; 2],
}

impl Block {
    pub(super) const EMPTY: Self = Self { codes: [0; BLOCK], scale: f16::ZERO, minimum: f16::ZERO, steps: [0; 2] };

    pub(super) fn values(&self, format: Format) -> [f32; BLOCK] {
        let (scale, minimum) = (self.scale.to_f32(), self.minimum.to_f32());
        let (scales, offset, minimum) = match format {
            Format::Q4_0 => ([scale; 2], 8.0, 0.0),
            Format::Q5_0 => ([scale; 2], 16.0, 0.0),
            Format::Q8_0 => ([scale; 2], 128.0, 0.0),
            Format::Q4K | Format::Q5K => {
                ([scale * f32::from(self.steps[0]); 2], 0.0, -(minimum * f32::from(self.steps[1])))
            }
            Format::Q6K => (self.steps.map(|step| scale * f32::from(step as i8)), 32.0, 0.0),
            _ => ([scale; 2], 0.0, minimum),
        };
        let mut values = [0.0; BLOCK];
        for (index, value) in values.iter_mut().enumerate() {
            *value = scales[index / 16] * (f32::from(self.codes[index]) - offset) + minimum;
        }
        values
    }
}

#[inline(always)]
fn half(bytes: &[u8], at: usize) -> f16 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// The low nibbles of 16 bytes, then the high ones.
#[inline(always)]
fn nibbles(bytes: &[u8]) -> [u8; BLOCK] {
    let mut codes = [0; BLOCK];
    for (index, byte) in bytes[..16].iter().enumerate() {
        codes[index] = byte & 15;
        codes[index + 16] = byte >> 4;
    }
    codes
}

/// Bit i of the 32 is the fifth bit of code i.
#[inline(always)]
fn with_fifth(mut codes: [u8; BLOCK], bits: &[u8]) -> [u8; BLOCK] {
    let bits = u32::from_le_bytes([bits[0], bits[1], bits[2], bits[3]]);
    for (index, code) in codes.iter_mut().enumerate() {
        *code |= ((bits >> index & 1) as u8) << 4;
    }
    codes
}

/// The eighth `part` of a superblock of Q4_K or Q5_K: scale, minimum, 8 six-bit steps of each in 12 bytes, for Q5_K the
/// fifth bits (bit `part` of 32 bytes), then nibbles: 32 bytes hold one part low and the next one high.
#[inline(always)]
fn super_block(encoding: Encoding, unit: &[u8], part: usize) -> Block {
    let packed = &unit[4..16];
    let steps = if part < 4 {
        [packed[part] & 63, packed[part + 4] & 63]
    } else {
        [packed[part + 4] & 15 | packed[part - 4] >> 6 << 4, packed[part + 4] >> 4 | packed[part] >> 6 << 4]
    };
    let low = if encoding == Encoding::Q5K { &unit[48..] } else { &unit[16..] };
    let bytes = &low[part / 2 * 32..][..32];
    let mut codes = [0; BLOCK];
    for (code, byte) in codes.iter_mut().zip(bytes) {
        *code = byte >> (part % 2 * 4) & 15;
    }
    if encoding == Encoding::Q5K {
        for (code, byte) in codes.iter_mut().zip(&unit[16..48]) {
            *code |= (byte >> part & 1) << 4;
        }
    }
    Block { codes, scale: half(unit, 0), minimum: half(unit, 2), steps }
}

/// The eighth `part` of a superblock of Q6_K: for each half of 128 values 64 bytes of nibbles; then for each half 32
/// bytes with two more bits for each of 4 parts; a signed step for every 16 values; the scale.
#[inline(always)]
fn super_block_of_six_bits(unit: &[u8], part: usize) -> Block {
    let (upper, quarter) = (part / 4, part % 4);
    let low = &unit[upper * 64 + quarter % 2 * 32..][..32];
    let high = &unit[128 + upper * 32..][..32];
    let mut codes = [0; BLOCK];
    for index in 0..BLOCK {
        codes[index] = low[index] >> (quarter / 2 * 4) & 15 | (high[index] >> (2 * quarter) & 3) << 4;
    }
    let steps = [unit[192 + 2 * part], unit[193 + 2 * part]];
    Block { codes, scale: half(unit, 208), minimum: f16::ZERO, steps }
}
