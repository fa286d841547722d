//! `Linear`: a packed weight matrix and its products.
//!
//! Weights stay as the file stores them, bit for bit, and are only put in another order once, at load:
//! - `encoding`: how files store numbers;
//! - `layout`: strips of 16 rows, in which the kernels read them;
//! - `pack`: from one to the other, in parallel, or to another format;
//! - `activations`: what is multiplied, in float32 and in int8;
//! - `shares`: what of a product one thread computes;
//! - `quantised` and `float`: the kernels; `codes`: how the quantised ones read each format;
//! - `memory`: aligned bytes.
//!
//! A product is a phase of a team. An element of its result is summed by one lane in the order of the columns, so its
//! bits depend neither on the other rows nor on the threads.

mod activations;
mod codes;
mod encoding;
mod float;
mod layout;
mod memory;
mod pack;
mod quantise;
mod quantised;
mod shares;

use std::fmt;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::str::FromStr;

pub(crate) use activations::load_block;
pub use activations::{Activations, Contents};
pub use encoding::Encoding;

use crate::error::check_length;
use crate::pool::Team;
use crate::simd::{Kernel, LANES, Simd};
use crate::{CpuKernels, KernelError};
pub(crate) use encoding::BLOCK;
use memory::Memory;

/// How packed weights are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    F32,
    F16,
    Bf16,
    /// A float32 scale a row.
    Int8,
    /// A float16 scale and minimum for each group of 32, 64 or 128 columns.
    Int4 {
        group: usize,
    },
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

impl Format {
    pub fn is_quantised(self) -> bool {
        !matches!(self, Format::F32 | Format::F16 | Format::Bf16)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Format::F32 => "float32",
            Format::F16 => "float16",
            Format::Bf16 => "bfloat16",
            Format::Int8 => "int8",
            Format::Int4 { group: 32 } => "int4",
            Format::Int4 { group } => return write!(formatter, "int4:{group}"),
            Format::Q4_0 => "Q4_0",
            Format::Q4_1 => "Q4_1",
            Format::Q5_0 => "Q5_0",
            Format::Q5_1 => "Q5_1",
            Format::Q8_0 => "Q8_0",
            Format::Q4K => "Q4_K",
            Format::Q5K => "Q5_K",
            Format::Q6K => "Q6_K",
        };
        formatter.write_str(name)
    }
}

impl FromStr for Format {
    type Err = KernelError;

    fn from_str(name: &str) -> Result<Self, KernelError> {
        let int4 = [32, 64, 128].map(|group| Format::Int4 { group });
        let others = [Format::F32, Format::F16, Format::Bf16, Format::Int8, Format::Q4_0, Format::Q4_1, Format::Q5_0];
        let last = [Format::Q5_1, Format::Q8_0, Format::Q4K, Format::Q5K, Format::Q6K];
        let known = others.into_iter().chain(last).chain(int4).find(|format| format.to_string() == name);
        known.ok_or_else(|| KernelError::Config(format!("unknown weight format {name:?}")))
    }
}

/// Rows as a file stores them.
#[derive(Debug, Clone, Copy)]
pub struct Stored<'a> {
    pub bytes: &'a [u8],
    pub rows: usize,
    pub encoding: Encoding,
    /// llama.cpp stores the queries and keys of Llama with the halves of each head interleaved: 2i and 2i + 1 are i and
    /// i + half. The rows of a head; 0: as they are.
    pub interleaved_head: usize,
}

/// Where a product goes: [rows, stride] floats.
#[derive(Clone, Copy)]
pub(crate) struct Output {
    pub(crate) pointer: *mut f32,
    pub(crate) stride: usize,
    /// Onto what is there.
    pub(crate) add: bool,
}

// SAFETY: whoever makes one promises, by calling `multiply`, that the threads of the team may write there.
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

impl Output {
    fn with_stride(self, stride: usize) -> Self {
        Self { stride, ..self }
    }
}

/// A matrix [rows, columns], whose products are input · matrixᵀ (+ bias).
pub struct Linear {
    columns: usize,
    parts: Vec<Part>,
    /// As many as rows, or none.
    bias: Vec<f32>,
}

/// Rows of one format: strips of 16.
struct Part {
    format: Format,
    first_row: usize,
    rows: usize,
    columns: usize,
    strip_bytes: usize,
    memory: Memory,
}

/// What of a part's product one thread computes at a time.
struct Item<'a> {
    part: &'a Part,
    strips: Range<usize>,
    tokens: Range<usize>,
    input: &'a Activations,
    /// Where (tokens.start, strips.start) goes.
    out: Output,
    /// From the first row of `strips`; empty: none.
    bias: &'a [f32],
}

impl Linear {
    /// Packs `parts`, one below the other, in parallel. `format` None: each part as it is stored.
    ///
    /// Errors: a part's bytes are not rows × columns in its encoding, the format cannot be made of the encoding, the
    /// memory is not there.
    pub fn pack(
        kernels: &CpuKernels,
        columns: usize,
        parts: &[Stored<'_>],
        format: Option<Format>,
    ) -> Result<Self, KernelError> {
        let parts = pack::pack(kernels, columns, parts, format)?;
        Ok(Self { columns, parts, bias: Vec::new() })
    }

    /// Every product adds it.
    pub fn set_bias(&mut self, bias: &[f32]) -> Result<(), KernelError> {
        check_length("bias", bias.len(), self.rows())?;
        self.bias = bias.to_vec();
        Ok(())
    }

    pub fn rows(&self) -> usize {
        self.parts.last().map_or(0, |part| part.first_row + part.rows)
    }

    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Bytes it takes in memory.
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(|part| part.memory.bytes()).sum::<usize>() + size_of_val(&*self.bias)
    }

    /// Bytes that a matrix takes in `format`.
    pub fn packed_bytes(rows: usize, columns: usize, format: Format) -> usize {
        rows.div_ceil(LANES) * layout::strip_bytes(format, columns)
    }

    /// out[r, :] = input[r] · matrixᵀ (+ bias) for input [rows, columns] and out [rows, self.rows()].
    pub fn product(
        &self,
        kernels: &CpuKernels,
        input: &[f32],
        rows: usize,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        check_length("input", input.len(), rows * self.columns)?;
        let input = Activations::of_rows(kernels, input, self.columns, self.reads());
        self.product_of(kernels, &input, rows, out)
    }

    /// `product` with each matrix in turn, into the same `out`, in one team: what a forward pass spends on them.
    #[doc(hidden)]
    pub fn measure(matrices: &[Self], kernels: &CpuKernels, input: &Activations, rows: usize, out: &mut [f32]) {
        assert!(matrices.iter().all(|matrix| rows * matrix.rows() <= out.len()));
        let out = Output { pointer: out.as_mut_ptr(), stride: 0, add: false };
        kernels.pool.team(|team| {
            for matrix in matrices {
                let out = out.with_stride(matrix.rows());
                // SAFETY: `out` is long enough, checked above, and is borrowed for the team alone.
                unsafe { matrix.multiply(kernels, team, input, 0..rows, out) };
            }
        });
    }

    /// `product` of rows that are there already.
    pub fn product_of(
        &self,
        kernels: &CpuKernels,
        input: &Activations,
        rows: usize,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        check_length("input columns", input.columns(), self.columns)?;
        check_length("out", out.len(), rows * self.rows())?;
        if rows > input.max_rows() || !input.contents().serves(self.reads()) {
            let text =
                format!("a product of {rows} rows takes as many, in int8 for quantised weights and else in float32");
            return Err(KernelError::Config(text));
        }
        let out = Output { pointer: out.as_mut_ptr(), stride: self.rows(), add: false };
        kernels.pool.team(|team| {
            // SAFETY: `out` has as many elements, checked above, and is borrowed for the team alone.
            unsafe { self.multiply(kernels, team, input, 0..rows, out) };
        });
        Ok(())
    }

    /// What the parts read of their input.
    pub fn reads(&self) -> Contents {
        Contents::for_readers([self])
    }

    /// Row `index` as floats, exactly what the products use.
    pub(crate) fn read_row(&self, _kernels: &CpuKernels, index: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.columns);
        let part = self.parts.iter().rfind(|part| part.first_row <= index).expect("there are rows");
        assert!(index < part.first_row + part.rows, "row {index} of {}", self.rows());
        pack::read_row(part, index - part.first_row, out);
    }

    /// out[r, :] = or += input[rows.start + r] · matrixᵀ (+ bias) for each of `rows`. A phase.
    ///
    /// # Safety
    /// The same arguments on every thread of the team; `out` is writable for as many rows of `self.rows()` and nobody
    /// else's; nobody writes the input during the phase.
    pub(crate) unsafe fn multiply(
        &self,
        kernels: &CpuKernels,
        team: &Team<'_>,
        input: &Activations,
        rows: Range<usize>,
        out: Output,
    ) {
        assert!(rows.end <= input.max_rows());
        self.each_share(team, rows.clone(), |share| {
            let at = (share.tokens.start - rows.start) * out.stride + share.columns().start;
            // SAFETY: inside `out` by the caller's promise.
            unsafe {
                let pointer = out.pointer.add(at);
                share.multiply(kernels, input, share.tokens.clone(), Output { pointer, ..out });
            }
        });
    }

    /// out[r] = silu(input[r] · gateᵀ) · (input[r] · upᵀ), quantised where `out` is. A phase; a block of 32 outputs is
    /// one thread's.
    ///
    /// # Safety
    /// As `multiply`'s, and nobody else uses `out`.
    pub(crate) unsafe fn multiply_gated(
        gate: &Linear,
        up: &Linear,
        kernels: &CpuKernels,
        team: &Team<'_>,
        input: &Activations,
        rows: usize,
        out: &Activations,
    ) {
        let ([gate_part], [up_part]) = (&gate.parts[..], &up.parts[..]) else {
            panic!("a gated product takes matrices of one format each");
        };
        assert!(gate.columns == up.columns && gate.rows() == up.rows() && gate.rows() == out.columns());
        assert!(input.columns() == gate.columns && rows <= input.max_rows() && rows <= out.max_rows());
        assert!(input.contents().serves(Contents::for_readers([gate, up])));
        let shares = gate_part.shares(team.threads(), rows);
        team.each(shares.count(), |index| {
            let (strips, tokens) = shares.share(index);
            let mut begin = strips.start;
            while begin < strips.end {
                let end = strips.end.min(begin + GATED / LANES);
                for first in tokens.clone().step_by(GATED_TOKENS) {
                    let tokens = first..tokens.end.min(first + GATED_TOKENS);
                    kernels.run(Gated {
                        parts: [gate_part, up_part],
                        biases: [&gate.bias, &up.bias],
                        strips: begin..end,
                        tokens,
                        input,
                        out,
                    });
                }
                begin = end;
            }
        });
    }
}

/// Rows of a gated product whose gate and up are kept until they meet: 2 · 48 · 256 bytes.
const GATED_TOKENS: usize = 48;

/// Their columns: what the widest register tiles take.
const GATED: usize = 2 * BLOCK;

impl Part {
    fn strips(&self) -> usize {
        self.rows.div_ceil(LANES)
    }

    fn strip(&self, index: usize) -> *const u8 {
        debug_assert!(index < self.strips());
        // SAFETY: inside the memory, which has `strips` of them.
        unsafe { self.memory.pointer().add(index * self.strip_bytes) }
    }
}

impl Kernel for Item<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        // SAFETY: the promises of `multiply`'s caller.
        unsafe {
            match self.part.format {
                Format::F32 | Format::F16 | Format::Bf16 => float::multiply(simd, &self),
                _ => quantised::multiply(simd, &self),
            }
        }
    }
}

/// Strips of gate and up: one or two blocks of the outputs.
struct Gated<'a> {
    parts: [&'a Part; 2],
    biases: [&'a [f32]; 2],
    strips: Range<usize>,
    tokens: Range<usize>,
    input: &'a Activations,
    out: &'a Activations,
}

impl Kernel for Gated<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let first = self.strips.start * LANES;
        let columns = self.out.columns().min(self.strips.end * LANES) - first;
        let mut products = [const { MaybeUninit::<[f32; GATED_TOKENS * GATED]>::uninit() }; 2];
        for ((part, bias), product) in self.parts.iter().zip(self.biases).zip(&mut products) {
            let out = Output { pointer: product.as_mut_ptr().cast(), stride: GATED, add: false };
            if !columns.is_multiple_of(BLOCK) {
                // What the products leave of the last block is zero.
                // SAFETY: there are GATED_TOKENS rows of GATED.
                unsafe { out.pointer.write_bytes(0, self.tokens.len() * GATED) };
            }
            let bias = bias.get(first..).unwrap_or(&[]);
            Item { part, strips: self.strips.clone(), tokens: self.tokens.clone(), input: self.input, out, bias }
                .run(simd);
        }
        for (index, token) in self.tokens.clone().enumerate() {
            for block in 0..columns.div_ceil(BLOCK) {
                let at = index * GATED + block * BLOCK;
                // SAFETY: the products have whole blocks, and these blocks of `out` are this thread's.
                unsafe {
                    let [gate, up] = [0, 1].map(|which: usize| products[which].as_ptr().cast::<f32>().add(at));
                    let first_half = gated(simd, simd.load(gate), simd.load(up));
                    let second_half = gated(simd, simd.load(gate.add(LANES)), simd.load(up.add(LANES)));
                    self.out.write(simd, token, first / BLOCK + block, [first_half, second_half]);
                }
            }
        }
    }
}

/// silu(gate) · up
#[inline(always)]
fn gated<S: Simd>(simd: S, gate: S::Vector, up: S::Vector) -> S::Vector {
    simd.mul(simd.mul(gate, simd.sigmoid(gate)), up)
}
