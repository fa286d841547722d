//! What a product multiplies: rows of float32, and the same rows in int8.

use super::Linear;
use super::encoding::BLOCK;
use super::memory::Memory;
use crate::CpuKernels;
use crate::simd::{Kernel, LANES, Simd, load_slice};

/// Floats that a row's length is a multiple of.
const PADDING: usize = 64;

/// 32 values of a row in int8, with everything that a kernel needs beside them.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Coded {
    pub(super) codes: [i8; BLOCK],
    /// value = code · scale
    pub(super) scale: f32,
    /// scale · (sum of the codes)
    pub(super) scaled_sum: f32,
    /// -(sum of the codes)
    pub(super) negative_sum: i32,
    /// Of the first 16 codes.
    pub(super) negative_half: i32,
}

/// What a product reads of its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents {
    /// float32
    Floats,
    /// int8 codes with a scale for every 32 columns
    Codes,
    Both,
}

impl Contents {
    /// What these matrices read.
    pub(crate) fn for_readers<'a>(matrices: impl IntoIterator<Item = &'a Linear>) -> Self {
        let (mut floats, mut codes) = (false, false);
        for part in matrices.into_iter().flat_map(|matrix| &matrix.parts) {
            floats |= !part.format.is_quantised();
            codes |= part.format.is_quantised();
        }
        match (floats, codes) {
            (_, false) => Self::Floats,
            (false, true) => Self::Codes,
            (true, true) => Self::Both,
        }
    }

    /// Holds all that `readers` read.
    pub(crate) fn serves(self, readers: Self) -> bool {
        self == Self::Both || self == readers
    }

    pub(crate) fn has_floats(self) -> bool {
        self != Self::Codes
    }

    pub(crate) fn has_codes(self) -> bool {
        self != Self::Floats
    }
}

/// Rows of what products read.
///
/// Threads write different rows, or different blocks of a row; a product reads after they have met.
pub struct Activations {
    max_rows: usize,
    columns: usize,
    stride: usize,
    contents: Contents,
    floats: Memory,
    codes: Memory,
}

impl Activations {
    /// rows [n, columns]
    ///
    /// # Panics
    /// When the memory is not there.
    pub fn of_rows(kernels: &CpuKernels, rows: &[f32], columns: usize, contents: Contents) -> Self {
        let result = Self::new(rows.len() / columns, columns, contents);
        kernels.pool.for_each(result.max_rows, |_, index| {
            let values = &rows[index * columns..(index + 1) * columns];
            // SAFETY: each row is one thread's.
            kernels.run(unsafe { Fill::new(&result, index, values) });
        });
        result
    }

    /// Bytes of a row that a product reads.
    pub(super) fn token_bytes(columns: usize, quantised: bool) -> usize {
        if quantised { columns.div_ceil(BLOCK) * size_of::<Coded>() } else { columns * size_of::<f32>() }
    }

    /// # Panics
    /// When the memory is not there.
    pub(crate) fn new(max_rows: usize, columns: usize, contents: Contents) -> Self {
        let stride = columns.next_multiple_of(PADDING);
        let memory = |bytes| Memory::zeroed(bytes).unwrap_or_else(|error| panic!("{error}"));
        let floats = if contents.has_floats() { max_rows * stride * size_of::<f32>() } else { 0 };
        let codes = if contents.has_codes() { max_rows * columns.div_ceil(BLOCK) * size_of::<Coded>() } else { 0 };
        Self { max_rows, columns, stride, contents, floats: memory(floats), codes: memory(codes) }
    }

    /// Bytes that it takes.
    pub(crate) fn bytes(max_rows: usize, columns: usize, contents: Contents) -> usize {
        let floats = if contents.has_floats() { columns.next_multiple_of(PADDING) * size_of::<f32>() } else { 0 };
        let codes = if contents.has_codes() { columns.div_ceil(BLOCK) * size_of::<Coded>() } else { 0 };
        max_rows * (floats + codes)
    }

    pub(crate) fn max_rows(&self) -> usize {
        self.max_rows
    }

    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    /// Floats from a row to the next; those past the columns are zero.
    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    pub(crate) fn contents(&self) -> Contents {
        self.contents
    }

    /// Row `index` in float32.
    ///
    /// # Safety
    /// Nobody else has this row, or what the caller uses of it.
    pub(crate) unsafe fn row(&self, index: usize) -> *mut f32 {
        debug_assert!(index < self.max_rows && self.contents.has_floats());
        // SAFETY: inside the memory.
        unsafe { self.floats.pointer().cast::<f32>().add(index * self.stride) }
    }

    /// Row `index` in int8: `blocks` of them.
    pub(super) fn coded(&self, index: usize) -> *const Coded {
        debug_assert!(index < self.max_rows && self.contents.has_codes());
        // SAFETY: inside the memory.
        unsafe { self.codes.pointer().cast::<Coded>().add(index * self.blocks()) }
    }

    /// Blocks of 32 columns; the last may be shorter.
    pub(crate) fn blocks(&self) -> usize {
        self.columns.div_ceil(BLOCK)
    }

    /// Copies a row of `from`, which has the same columns and at least the same contents.
    ///
    /// # Safety
    /// Nobody else has row `row` of this, and nobody writes the other.
    pub(crate) unsafe fn copy_row(&self, row: usize, from: &Self, from_row: usize) {
        assert!(self.columns == from.columns && from.contents.serves(self.contents));
        assert!(row < self.max_rows && from_row < from.max_rows);
        // SAFETY: both rows have as many floats and blocks; the caller's promise.
        unsafe {
            if self.contents.has_floats() {
                std::ptr::copy_nonoverlapping(from.row(from_row), self.row(row), self.columns);
            }
            if self.contents.has_codes() {
                std::ptr::copy_nonoverlapping(from.coded(from_row), self.coded(row).cast_mut(), self.blocks());
            }
        }
    }

    /// Brings a row into int8 after it was written as floats.
    ///
    /// # Safety
    /// Nobody else has this row.
    pub(crate) unsafe fn quantise(&self, kernels: &CpuKernels, row: usize) {
        kernels.run(Quantise { activations: self, row });
    }

    /// Writes the 32 values of a block in whatever this holds; those past the columns are zero.
    ///
    /// # Safety
    /// Nobody else has this block.
    #[inline(always)]
    pub(crate) unsafe fn write<S: Simd>(&self, simd: S, row: usize, block: usize, values: [S::Vector; 2]) {
        debug_assert!(row < self.max_rows && block < self.blocks());
        // SAFETY: inside the memories, whose rows have room for whole blocks; the caller's promise.
        unsafe {
            if self.contents.has_floats() {
                let to = self.row(row).add(block * BLOCK);
                simd.store(to, values[0]);
                simd.store(to.add(LANES), values[1]);
            }
            if self.contents.has_codes() {
                quantise_block(simd, values, self.coded(row).add(block).cast_mut());
            }
        }
    }
}

struct Quantise<'a> {
    activations: &'a Activations,
    row: usize,
}

impl Kernel for Quantise<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { activations, row } = self;
        debug_assert!(row < activations.max_rows && activations.contents == Contents::Both);
        for block in 0..activations.blocks() {
            // SAFETY: inside the memories; the row is padded with zeros to whole blocks; nobody else has them.
            unsafe {
                let from = activations.row(row).add(block * BLOCK);
                let to = activations.coded(row).add(block).cast_mut();
                quantise_block(simd, [simd.load(from), simd.load(from.add(LANES))], to);
            }
        }
    }
}

/// Writes a whole row.
struct Fill<'a> {
    to: &'a Activations,
    row: usize,
    values: &'a [f32],
}

impl<'a> Fill<'a> {
    /// # Safety
    /// Nobody else has this row until the kernel has run.
    unsafe fn new(to: &'a Activations, row: usize, values: &'a [f32]) -> Self {
        assert_eq!(values.len(), to.columns);
        Self { to, row, values }
    }
}

impl Kernel for Fill<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for block in 0..self.to.blocks() {
            let values = load_block(simd, self.values, block);
            // SAFETY: the promise of `new`'s caller.
            unsafe { self.to.write(simd, self.row, block, values) };
        }
    }
}

/// The 32 values of a block, zeros past the end.
#[inline(always)]
pub(crate) fn load_block<S: Simd>(simd: S, row: &[f32], block: usize) -> [S::Vector; 2] {
    let column = block * BLOCK;
    let second = if column + LANES < row.len() { load_slice(simd, row, column + LANES) } else { simd.splat(0.0) };
    [load_slice(simd, row, column), second]
}

/// Codes from -127 to 127, so that the largest value is exact; zeros where it is too small to divide by. The scale of
/// a block with an infinity or NaN is NaN.
///
/// # Safety
/// `to` is writable.
#[inline(always)]
unsafe fn quantise_block<S: Simd>(simd: S, [first, second]: [S::Vector; 2], to: *mut Coded) {
    // SAFETY: the caller's promise.
    unsafe {
        let sizes = [simd.abs(first), simd.abs(second)];
        let infinity = simd.splat(f32::INFINITY);
        let finite = simd.greater(infinity, sizes[0]) & simd.greater(infinity, sizes[1]) == (1 << LANES) - 1;
        let largest = simd.largest(simd.max(sizes[0], sizes[1]));
        let (scale, inverse) = match (finite, largest > 1e-30) {
            (true, true) => (largest / 127.0, 127.0 / largest),
            (true, false) => (0.0, 0.0),
            (false, _) => (f32::NAN, 0.0),
        };
        let inverse = simd.splat(inverse);
        let codes = [simd.mul(first, inverse), simd.mul(second, inverse)];
        let [first, second] = simd.store_rounded_i8((&raw mut (*to).codes).cast(), codes);
        (&raw mut (*to).scale).write(scale);
        (&raw mut (*to).scaled_sum).write(scale * (first + second) as f32);
        (&raw mut (*to).negative_sum).write(-(first + second));
        (&raw mut (*to).negative_half).write(-first);
    }
}
