//! Register tiles: tokens by strips, summed over a block of steps.

use std::marker::PhantomData;

use super::terms::{Single, Terms};
use crate::simd::{Kernel, LANES, Simd, load_first, store_first};

/// Strips whose blocks of steps are read together.
pub(super) const STRIPS: usize = 4;

/// Steps between prefetches.
const CHUNK: usize = 8;

/// Tokens of the highest tile.
pub(super) const MOST_ROWS: usize = 6;

/// The product of some tokens' inputs with up to 4 strips, over a block of steps.
pub(super) struct Block<T> {
    pub(super) rows: usize,
    pub(super) steps: usize,
    pub(super) input: *const u8,
    /// Bytes.
    pub(super) input_stride: usize,
    pub(super) weights: [*const u8; STRIPS],
    pub(super) num_strips: usize,
    /// Weights that will be needed next: lines of strips.
    pub(super) next: [*const u8; STRIPS],
    pub(super) next_lines: usize,
    /// Where the sums of former blocks are: [rows, sums_stride]. None: they begin at zero.
    pub(super) start: Option<*const f32>,
    /// Where they go; None: these are the last.
    pub(super) partial: Option<*mut f32>,
    pub(super) sums_stride: usize,
    pub(super) end: End,
    pub(super) terms: PhantomData<T>,
}

/// Where finished sums go: [rows, stride].
#[derive(Clone, Copy)]
pub(super) struct End {
    pub(super) out: *mut f32,
    pub(super) stride: usize,
    /// Onto what is there.
    pub(super) add: bool,
    /// One for each column.
    pub(super) bias: Option<*const f32>,
    /// Columns that exist.
    pub(super) columns: usize,
}

impl<T: Terms> Kernel for Block<T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let most = S::ACCUMULATORS.min(MOST_ROWS);
        let step = self.rows.div_ceil(self.rows.div_ceil(most).max(1)).max(1);
        let mut row = 0;
        while row < self.rows {
            // SAFETY: whoever makes a `Block` promises that what its fields name is readable and writable.
            unsafe {
                match step.min(self.rows - row) {
                    1 => self.row_tile::<S, 1>(simd, row, step),
                    2 => self.row_tile::<S, 2>(simd, row, step),
                    3 => self.row_tile::<S, 3>(simd, row, step),
                    4 => self.row_tile::<S, 4>(simd, row, step),
                    5 => self.row_tile::<S, 5>(simd, row, step),
                    _ => self.row_tile::<S, 6>(simd, row, step),
                }
            }
            row += step;
        }
    }
}

impl<T: Terms> Block<T> {
    /// The same with weights that have been widened to float32.
    #[inline(always)]
    pub(super) fn widened<const LINES: usize>(self, strips: *const [[f32; LANES]; LINES]) -> Block<Single> {
        Block {
            rows: self.rows,
            steps: self.steps * T::COLUMNS,
            input: self.input,
            input_stride: self.input_stride,
            weights: std::array::from_fn(|n| strips.wrapping_add(n).cast()),
            num_strips: self.num_strips,
            next: self.next,
            next_lines: self.next_lines,
            start: self.start,
            partial: self.partial,
            sums_stride: self.sums_stride,
            end: self.end,
            terms: PhantomData,
        }
    }

    #[inline(always)]
    unsafe fn row_tile<S: Simd, const R: usize>(&self, simd: S, row: usize, step: usize) {
        let together = S::ACCUMULATORS / R;
        let mut strip = 0;
        while strip < self.num_strips {
            let left = self.num_strips - strip;
            let ahead = self.ahead(row / step, self.rows.div_ceil(step), strip);
            // SAFETY: the caller's promise.
            unsafe {
                if together >= 4 && left >= 4 {
                    self.tile::<S, R, 4>(simd, row, strip, ahead);
                    strip += 4;
                } else if together >= 2 && left >= 2 {
                    self.tile::<S, R, 2>(simd, row, strip, ahead);
                    strip += 2;
                } else {
                    self.tile::<S, R, 1>(simd, row, strip, ahead);
                    strip += 1;
                }
            }
        }
    }

    /// The next line to prefetch for the tile at `strip` of row tile `index` of `count`.
    #[inline(always)]
    fn ahead(&self, index: usize, count: usize, strip: usize) -> usize {
        (index * self.num_strips + strip) * self.next_lines * STRIPS / (count * self.num_strips)
    }

    /// R tokens by N strips, accumulated in registers.
    #[expect(clippy::needless_range_loop, reason = "constant bounds on arrays that become registers")]
    #[inline(always)]
    unsafe fn tile<S: Simd, const R: usize, const N: usize>(
        &self,
        simd: S,
        row: usize,
        strip: usize,
        mut ahead: usize,
    ) {
        // SAFETY: the caller's promise; `row` and `strip` stay below the fields' counts.
        unsafe {
            let mut sums = [[simd.splat(0.0); N]; R];
            let mut weights = [std::ptr::null::<u8>(); N];
            weights.copy_from_slice(&self.weights[strip..strip + N]);
            let input = self.input.add(row * self.input_stride);
            if let Some(start) = self.start {
                let start = start.add(row * self.sums_stride + strip * LANES);
                for r in 0..R {
                    for n in 0..N {
                        sums[r][n] = simd.load(start.add(r * self.sums_stride + n * LANES));
                    }
                }
            }
            let most = (self.next_lines * STRIPS * N).div_ceil(self.num_strips * self.rows.div_ceil(R));
            let share = (most * CHUNK).div_ceil(self.steps);
            let mut chunk = 0;
            while chunk < self.steps {
                let end = self.steps.min(chunk + CHUNK);
                let until = (ahead + share).min(self.next_lines * STRIPS);
                while ahead < until {
                    simd.prefetch_far(self.next[ahead % STRIPS].wrapping_add(ahead / STRIPS * 64));
                    ahead += 1;
                }
                for k in chunk..end {
                    let mut lines = [T::weights(simd, weights[0].add(k * T::WEIGHTS)); N];
                    for n in 1..N {
                        lines[n] = T::weights(simd, weights[n].add(k * T::WEIGHTS));
                    }
                    for r in 0..R {
                        let x = T::input(simd, input.add(r * self.input_stride + k * T::INPUT));
                        for n in 0..N {
                            sums[r][n] = T::add(simd, x, lines[n], sums[r][n]);
                        }
                    }
                }
                chunk = end;
            }
            for r in 0..R {
                for n in 0..N {
                    let column = (strip + n) * LANES;
                    match self.partial {
                        Some(partial) => simd.store(partial.add((row + r) * self.sums_stride + column), sums[r][n]),
                        None => self.end.store(simd, row + r, column, sums[r][n]),
                    }
                }
            }
        }
    }
}

impl End {
    #[inline(always)]
    pub(super) unsafe fn store<S: Simd>(&self, simd: S, row: usize, column: usize, sum: S::Vector) {
        let count = (self.columns - column).min(LANES);
        // SAFETY: the promise of `multiply`'s caller, which holds for the columns that exist.
        unsafe {
            let out = self.out.add(row * self.stride + column);
            let mut value = sum;
            if count == LANES {
                if let Some(bias) = self.bias {
                    value = simd.add(value, simd.load(bias.add(column)));
                }
                if self.add {
                    value = simd.add(simd.load(out), value);
                }
                simd.store(out, value);
            } else {
                if let Some(bias) = self.bias {
                    value = simd.add(value, load_first(simd, bias.add(column), count));
                }
                if self.add {
                    value = simd.add(load_first(simd, out, count), value);
                }
                store_first(simd, out, value, count);
            }
        }
    }
}
