//! What a product multiplies: rows of float32, and the same rows in int8.

use std::ops::Range;

use super::encoding::BLOCK;
use super::memory::Memory;
use crate::CpuKernels;
use crate::simd::{Kernel, LANES, Simd};

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

/// Rows of float32, and, if quantised, the same rows as int8 codes with a scale for every 32 columns.
///
/// Threads write different rows, or different blocks of a row; a product reads after they have met.
pub struct Activations {
    max_rows: usize,
    columns: usize,
    stride: usize,
    floats: Memory,
    coded: Option<Memory>,
}

impl Activations {
    /// rows [n, columns], in int8 too if `quantised`.
    ///
    /// # Panics
    /// When the memory is not there.
    pub fn of_rows(kernels: &CpuKernels, rows: &[f32], columns: usize, quantised: bool) -> Self {
        let result = Self::new(rows.len() / columns, columns, quantised);
        kernels.pool.for_each(result.max_rows, |_, index| {
            let values = &rows[index * columns..(index + 1) * columns];
            // SAFETY: each row is one thread's.
            unsafe {
                std::slice::from_raw_parts_mut(result.row(index), columns).copy_from_slice(values);
                result.quantise(kernels, index, 0..columns);
            }
        });
        result
    }

    /// Bytes of a row that a product reads.
    pub(super) fn token_bytes(columns: usize, quantised: bool) -> usize {
        if quantised { columns.div_ceil(BLOCK) * size_of::<Coded>() } else { columns * size_of::<f32>() }
    }

    /// # Panics
    /// When the memory is not there.
    pub(crate) fn new(max_rows: usize, columns: usize, quantised: bool) -> Self {
        let stride = columns.next_multiple_of(PADDING);
        let blocks = max_rows * columns.div_ceil(BLOCK);
        let memory = |bytes| Memory::zeroed(bytes).unwrap_or_else(|error| panic!("{error}"));
        Self {
            max_rows,
            columns,
            stride,
            floats: memory(max_rows * stride * size_of::<f32>()),
            coded: quantised.then(|| memory(blocks * size_of::<Coded>())),
        }
    }

    /// Bytes that it takes.
    pub(crate) fn bytes(max_rows: usize, columns: usize, quantised: bool) -> usize {
        let coded = if quantised { columns.div_ceil(BLOCK) * size_of::<Coded>() } else { 0 };
        max_rows * (columns.next_multiple_of(PADDING) * size_of::<f32>() + coded)
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

    pub(crate) fn is_quantised(&self) -> bool {
        self.coded.is_some()
    }

    /// # Safety
    /// Nobody else has this row, or what the caller uses of it.
    pub(crate) unsafe fn row(&self, index: usize) -> *mut f32 {
        debug_assert!(index < self.max_rows);
        // SAFETY: inside the memory.
        unsafe { self.floats.pointer().cast::<f32>().add(index * self.stride) }
    }

    /// Row `index` in int8: `blocks` of them.
    pub(super) fn coded(&self, index: usize) -> *const Coded {
        debug_assert!(index < self.max_rows);
        let memory = self.coded.as_ref().expect("a quantised product takes quantised activations");
        // SAFETY: inside the memory.
        unsafe { memory.pointer().cast::<Coded>().add(index * self.blocks()) }
    }

    pub(super) fn blocks(&self) -> usize {
        self.columns.div_ceil(BLOCK)
    }

    /// Brings columns of a row into int8 after they were written; nothing if there is no int8 here. `columns` begin at
    /// a multiple of 32 and end at one or at the end.
    ///
    /// # Safety
    /// Nobody else has these columns.
    pub(crate) unsafe fn quantise(&self, kernels: &CpuKernels, row: usize, columns: Range<usize>) {
        if self.is_quantised() {
            kernels.run(Quantise { activations: self, row, columns });
        }
    }

    /// `quantise` inside a kernel.
    ///
    /// # Safety
    /// As `quantise`.
    #[inline(always)]
    pub(super) unsafe fn quantise_with<S: Simd>(&self, simd: S, row: usize, columns: Range<usize>) {
        debug_assert!(row < self.max_rows && columns.end <= self.columns);
        debug_assert!(columns.start.is_multiple_of(BLOCK));
        let Some(memory) = &self.coded else { return };
        for block in columns.start / BLOCK..columns.end.div_ceil(BLOCK) {
            // SAFETY: inside the memories; the row is padded with zeros to whole blocks; nobody else has them.
            unsafe {
                let from = self.row(row).add(block * BLOCK);
                let to = memory.pointer().cast::<Coded>().add(row * self.blocks() + block);
                quantise_block(simd, from, to);
            }
        }
    }
}

struct Quantise<'a> {
    activations: &'a Activations,
    row: usize,
    columns: Range<usize>,
}

impl Kernel for Quantise<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        // SAFETY: the promise of `quantise`'s caller.
        unsafe { self.activations.quantise_with(simd, self.row, self.columns) };
    }
}

/// Codes from -127 to 127, so that the largest value is exact; zeros where it is too small to divide by. The scale of
/// a block with an infinity or NaN is NaN.
///
/// # Safety
/// 32 floats are readable at `from`, and `to` is writable.
#[inline(always)]
unsafe fn quantise_block<S: Simd>(simd: S, from: *const f32, to: *mut Coded) {
    // SAFETY: the caller's promise.
    unsafe {
        let (first, second) = (simd.load(from), simd.load(from.add(LANES)));
        let zero = simd.splat(0.0);
        let size = simd.max(simd.max(first, simd.sub(zero, first)), simd.max(second, simd.sub(zero, second)));
        let largest = simd.largest(size);
        let (scale, inverse) = if largest > 1e-30 { (largest / 127.0, 127.0 / largest) } else { (0.0, 0.0) };
        let inverse = simd.splat(inverse);
        let first = simd.round(simd.mul(first, inverse));
        let second = simd.round(simd.mul(second, inverse));
        let codes = (&raw mut (*to).codes).cast::<i8>();
        simd.store_i8(codes, first);
        simd.store_i8(codes.add(LANES), second);
        let half_sum = simd.sum(first);
        let sum = half_sum + simd.sum(second);
        (&raw mut (*to).scale).write(scale + 0.0 * sum);
        (&raw mut (*to).scaled_sum).write(scale * sum);
        (&raw mut (*to).negative_sum).write(-sum as i32);
        (&raw mut (*to).negative_half).write(-half_sum as i32);
    }
}
