//! The definitions of AMX's instructions: what tests run, and what the machine's are held to before they are used.

use super::{Configuration, ROW, ROWS, Tiles};

/// Lanes of a row.
const LANES: usize = ROW / 4;

pub(crate) struct Emulated {
    rows: [usize; 8],
    tiles: [[[u32; LANES]; ROWS]; 8],
}

impl Emulated {
    pub(crate) fn new() -> Self {
        Self { rows: [0; 8], tiles: [[[0; LANES]; ROWS]; 8] }
    }

    fn configured(&self, tile: u8) -> usize {
        assert!(self.rows[usize::from(tile)] > 0, "tile {tile} is not configured");
        usize::from(tile)
    }
}

impl Tiles for Emulated {
    fn configure(&mut self, rows: [usize; 2]) {
        let configuration = Configuration::new(rows);
        for tile in 0..8 {
            self.rows[tile] = usize::from(configuration.rows[tile]);
            assert!(self.rows[tile] <= ROWS && (self.rows[tile] == 0) == (configuration.row_bytes[tile] == 0));
        }
        self.tiles = [[[0; LANES]; ROWS]; 8];
    }

    fn release(&mut self) {
        self.rows = [0; 8];
    }

    fn zero<const T: u8>(&mut self) {
        let tile = self.configured(T);
        self.tiles[tile] = [[0; LANES]; ROWS];
    }

    unsafe fn load<const T: u8>(&mut self, from: *const u8, stride: usize) {
        let tile = self.configured(T);
        for row in 0..self.rows[tile] {
            // SAFETY: the caller's promise.
            self.tiles[tile][row] = unsafe { from.add(row * stride).cast::<[u32; LANES]>().read_unaligned() };
        }
    }

    unsafe fn store<const T: u8>(&mut self, to: *mut u8, stride: usize) {
        let tile = self.configured(T);
        for row in 0..self.rows[tile] {
            // SAFETY: the caller's promise.
            unsafe { to.add(row * stride).cast::<[u32; LANES]>().write_unaligned(self.tiles[tile][row]) };
        }
    }

    /// From zero, the even and the odd products of all pairs by themselves, each fused; then the two onto each other, and
    /// onto C. (The machine also takes numbers too small to be normal for zero, which are kept here.)
    ///
    /// Source: TDPBF16PS in volume 2 of Intel's Software Developer's Manual.
    fn dot_bf16<const C: u8, const A: u8, const B: u8>(&mut self) {
        let (c, a, b) = (self.configured(C), self.configured(A), self.configured(B));
        assert!(self.rows[c] == self.rows[a] && self.rows[b] == ROWS);
        let pair = |bits: u32| [f32::from_bits(bits << 16), f32::from_bits(bits & 0xffff_0000)];
        for row in 0..self.rows[c] {
            for lane in 0..LANES {
                let mut sums = [0.0_f32; 2];
                for k in 0..ROWS {
                    let (x, y) = (pair(self.tiles[a][row][k]), pair(self.tiles[b][k][lane]));
                    sums = [x[0].mul_add(y[0], sums[0]), x[1].mul_add(y[1], sums[1])];
                }
                let sum = f32::from_bits(self.tiles[c][row][lane]) + (sums[0] + sums[1]);
                self.tiles[c][row][lane] = sum.to_bits();
            }
        }
    }
}
