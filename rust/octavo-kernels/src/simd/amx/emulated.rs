//! The definitions of AMX's instructions: what tests run, and what the machine's are held to before they are used.
//!
//! Source: volume 2 of Intel's Software Developer's Manual.

use super::{Configuration, ROW, ROWS, Tiles};

/// Lanes of a row.
const LANES: usize = ROW / 4;

pub(crate) struct Emulated {
    rows: [usize; 8],
    row_bytes: [usize; 8],
    tiles: [[[u32; LANES]; ROWS]; 8],
}

impl Emulated {
    pub(crate) fn new() -> Self {
        Self { rows: [0; 8], row_bytes: [0; 8], tiles: [[[0; LANES]; ROWS]; 8] }
    }

    fn configured(&self, tile: u8) -> usize {
        assert!(self.rows[usize::from(tile)] > 0, "tile {tile} is not configured");
        usize::from(tile)
    }

    /// C of each row and lane becomes `dot` of it, the row of A, and the column of B.
    fn dot(&mut self, [c, a, b]: [u8; 3], dot: fn(u32, &[u32], &[u32]) -> u32) {
        let (c, a, b) = (self.configured(c), self.configured(a), self.configured(b));
        let depth = self.rows[b];
        assert!(self.rows[c] == self.rows[a] && self.row_bytes[a] == 4 * depth);
        assert!(self.row_bytes[c] == ROW && self.row_bytes[b] == ROW);
        for lane in 0..LANES {
            let column: [u32; ROWS] = std::array::from_fn(|k| self.tiles[b][k][lane]);
            for row in 0..self.rows[c] {
                let sum = dot(self.tiles[c][row][lane], &self.tiles[a][row][..depth], &column[..depth]);
                self.tiles[c][row][lane] = sum;
            }
        }
    }
}

impl Tiles for Emulated {
    fn configure(&mut self, rows: [usize; 2], depth: usize) {
        let configuration = Configuration::new(rows, depth);
        assert!(configuration.palette == 1 && configuration.start_row == 0);
        for tile in 0..8 {
            let (rows, bytes) = (configuration.rows[tile].into(), configuration.row_bytes[tile].into());
            assert!(rows <= ROWS && bytes <= ROW && (rows == 0) == (bytes == 0));
            (self.rows[tile], self.row_bytes[tile]) = (rows, bytes);
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
            self.tiles[tile][row] = [0; LANES];
            let to = self.tiles[tile][row].as_mut_ptr().cast::<u8>();
            // SAFETY: the caller's promise; a row has room for 64 bytes, which `configure` has seen to be enough.
            unsafe { to.copy_from_nonoverlapping(from.add(row * stride), self.row_bytes[tile]) };
        }
    }

    unsafe fn store<const T: u8>(&mut self, to: *mut u8, stride: usize) {
        let tile = self.configured(T);
        for row in 0..self.rows[tile] {
            let from = self.tiles[tile][row].as_ptr().cast::<u8>();
            // SAFETY: the caller's promise; a row has 64 bytes, which `configure` has seen to be enough.
            unsafe { to.add(row * stride).copy_from_nonoverlapping(from, self.row_bytes[tile]) };
        }
    }

    /// TDPBF16PS: from zero, the even and the odd products of all pairs by themselves, each fused; then the two onto each
    /// other, and onto C. (The machine also takes numbers too small to be normal for zero, which are kept here.)
    fn dot_bf16<const C: u8, const A: u8, const B: u8>(&mut self) {
        fn pair(bits: u32) -> [f32; 2] {
            [f32::from_bits(bits << 16), f32::from_bits(bits & 0xffff_0000)]
        }
        self.dot([C, A, B], |sum, row, column| {
            let [even, odd] = row.iter().zip(column).fold([0.0_f32; 2], |[even, odd], (&x, &y)| {
                let (x, y) = (pair(x), pair(y));
                [x[0].mul_add(y[0], even), x[1].mul_add(y[1], odd)]
            });
            (f32::from_bits(sum) + (even + odd)).to_bits()
        });
    }

    /// TDPBSUD.
    fn dot_bytes<const C: u8, const A: u8, const B: u8>(&mut self) {
        self.dot([C, A, B], |sum, row, column| {
            row.iter().zip(column).fold(sum, |sum, (x, y)| {
                let products = x.to_le_bytes().into_iter().zip(y.to_le_bytes());
                let dot: i32 = products.map(|(x, y)| i32::from(x as i8) * i32::from(y)).sum();
                sum.wrapping_add_signed(dot)
            })
        });
    }
}
