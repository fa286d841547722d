//! The one matrix kernel: C (=|+=) A · B with B in strips of 16 columns.
//!
//! Every element of C is summed by one lane, in the order of k, starting from 0 or from its old value. So its bits do
//! not depend on how rows and strips are grouped into register tiles, and a sum may be continued by another call.

use crate::simd::{Element, Kernel, LANES, Simd};

/// Strips that one call can take: 256 columns.
pub(crate) const MAX_STRIPS: usize = 16;

/// Pointers and strides (in elements) of C[rows, 16 · strips] (=|+=) A[rows, k] · B[k, 16 · strips].
#[derive(Clone, Copy)]
pub(crate) struct Product<E> {
    pub(crate) rows: usize,
    pub(crate) k: usize,
    pub(crate) a: *const f32,
    pub(crate) a_stride: usize,
    /// Where row 0 of each strip lies.
    pub(crate) strips: [*const E; MAX_STRIPS],
    pub(crate) num_strips: usize,
    pub(crate) b_stride: usize,
    pub(crate) c: *mut f32,
    pub(crate) c_stride: usize,
    /// Adds to C instead of overwriting it.
    pub(crate) accumulate: bool,
}

impl<E: Element> Product<E> {
    /// # Safety
    /// All elements that the fields name are readable (A, B) and writable (C), and C overlaps neither A nor B.
    #[inline(always)]
    pub(crate) unsafe fn multiply<S: Simd>(self, simd: S) {
        simd.call(self);
    }

    #[inline(always)]
    fn row_tile<S: Simd, const R: usize>(&self, simd: S, row: usize) {
        let together = S::ACCUMULATORS / R;
        let mut strip = 0;
        while strip < self.num_strips {
            let left = self.num_strips - strip;
            if together >= 4 && left >= 4 {
                self.tile::<S, R, 4>(simd, row, strip);
                strip += 4;
            } else if together >= 2 && left >= 2 {
                self.tile::<S, R, 2>(simd, row, strip);
                strip += 2;
            } else {
                self.tile::<S, R, 1>(simd, row, strip);
                strip += 1;
            }
        }
    }

    /// R rows by N strips, accumulated in registers.
    #[expect(clippy::needless_range_loop, reason = "constant bounds on arrays that become registers")]
    #[inline(always)]
    fn tile<S: Simd, const R: usize, const N: usize>(&self, simd: S, row: usize, strip: usize) {
        let mut sums = [[simd.splat(0.0); N]; R];
        let mut b = [std::ptr::null::<E>(); N];
        b.copy_from_slice(&self.strips[strip..strip + N]);
        // SAFETY: `multiply`'s caller promises that the elements named by the fields are there; `row`, `strip` and `k`
        // stay below the fields' counts.
        unsafe {
            let a = self.a.add(row * self.a_stride);
            let c = self.c.add(row * self.c_stride + strip * LANES);
            if self.accumulate {
                for r in 0..R {
                    for n in 0..N {
                        sums[r][n] = simd.load(c.add(r * self.c_stride + n * LANES));
                    }
                }
            }
            for k in 0..self.k {
                let mut columns = [simd.splat(0.0); N];
                for n in 0..N {
                    columns[n] = E::load(simd, b[n].add(k * self.b_stride));
                }
                for r in 0..R {
                    let x = simd.splat(*a.add(r * self.a_stride + k));
                    for n in 0..N {
                        sums[r][n] = simd.mul_add(x, columns[n], sums[r][n]);
                    }
                }
            }
            for r in 0..R {
                for n in 0..N {
                    simd.store(c.add(r * self.c_stride + n * LANES), sums[r][n]);
                }
            }
        }
    }
}

impl<E: Element> Kernel for Product<E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let most = S::ACCUMULATORS.min(6);
        let tiles = self.rows.div_ceil(most).max(1);
        let step = self.rows.div_ceil(tiles).max(1);
        let mut row = 0;
        while row < self.rows {
            match step.min(self.rows - row) {
                1 => self.row_tile::<S, 1>(simd, row),
                2 => self.row_tile::<S, 2>(simd, row),
                3 => self.row_tile::<S, 3>(simd, row),
                4 => self.row_tile::<S, 4>(simd, row),
                5 => self.row_tile::<S, 5>(simd, row),
                _ => self.row_tile::<S, 6>(simd, row),
            }
            row += step;
        }
    }
}
