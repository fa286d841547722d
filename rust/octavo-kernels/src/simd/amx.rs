//! AMX: products of whole tiles, 16 rows of 64 bytes.
//!
//! Rust has no stable intrinsics for it, but assembles its instructions. No code but this uses tiles, so they keep their
//! contents from one `asm!` to the next. What uses them is written over `Tiles`, so that an emulation can take the
//! machine's place in tests: no machine with AMX was at hand when this was written, and its speed is unknown.
//! - `emulated`: the instructions' definitions;
//! - `available`: whether machine and system have AMX, and its products are those of the definitions.

mod available;
pub(crate) mod emulated;

use std::arch::asm;

/// Rows of a full tile; bytes of its rows are `ROW`.
pub(crate) const ROWS: usize = 16;
pub(crate) const ROW: usize = 64;

/// Begins with a cache line, so that no row of a tile straddles two.
#[repr(C, align(64))]
pub(crate) struct Lines<T>(T);

/// The state of one thread's tiles. Tiles are numbered as in `configure`.
pub(crate) trait Tiles {
    /// Tiles 0 and 1 (sums) and 4 (tokens) get `rows[0]` rows, 2, 3 and 5 `rows[1]` (0: they are not used); 6 and 7
    /// (weights) get `depth`. A row of tokens is `depth` times 4 bytes, any other 64. All become zero.
    fn configure(&mut self, rows: [usize; 2], depth: usize);
    /// Gives the state back: switches between threads need not save it.
    fn release(&mut self);
    fn zero<const T: u8>(&mut self);
    /// # Safety
    /// The tile's rows, `stride` bytes apart, are readable.
    unsafe fn load<const T: u8>(&mut self, from: *const u8, stride: usize);
    /// # Safety
    /// The tile's rows, `stride` bytes apart, are writable.
    unsafe fn store<const T: u8>(&mut self, to: *mut u8, stride: usize);
    /// C += A · B in float32: rows of pairs of bfloat16, and for each pair a row of 16 pairs.
    fn dot_bf16<const C: u8, const A: u8, const B: u8>(&mut self);
    /// C += A · B in 32-bit integers: rows of fours of signed bytes, and for each four a row of 16 fours of unsigned ones.
    fn dot_bytes<const C: u8, const A: u8, const B: u8>(&mut self);
}

/// The operand of LDTILECFG.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Configuration {
    fn new([first, second]: [usize; 2], depth: usize) -> Self {
        let rows = [first, first, second, second, first, second, depth, depth];
        let mut configuration = Self { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        for (tile, rows) in rows.into_iter().enumerate().filter(|&(_, rows)| rows > 0) {
            configuration.row_bytes[tile] = if matches!(tile, 4 | 5) { 4 * depth as u16 } else { ROW as u16 };
            configuration.rows[tile] = rows as u8;
        }
        configuration
    }
}

/// The machine's tiles. A value is the proof that it has AMX for bfloat16 and int8, and that this process may use it.
#[derive(Clone, Copy)]
pub(crate) struct Amx(());

impl Amx {
    /// # Safety
    /// `is_available` was true.
    pub(crate) unsafe fn assume() -> Self {
        Self(())
    }

    /// This process may use it, and it is right: see `available`. Asks once.
    pub(crate) fn is_available() -> bool {
        available::is_available()
    }
}

impl Tiles for Amx {
    #[inline(always)]
    fn configure(&mut self, rows: [usize; 2], depth: usize) {
        let configuration = Configuration::new(rows, depth);
        // SAFETY: `self` exists, so the machine has the instruction; it reads the 64 bytes of a valid configuration.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const configuration, options(readonly, nostack, preserves_flags))
        };
    }

    #[inline(always)]
    fn release(&mut self) {
        // SAFETY: `self` exists, so the machine has the instruction.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
    }

    #[inline(always)]
    fn zero<const T: u8>(&mut self) {
        // SAFETY: `self` exists, so the machine has the instruction; callers have configured the tile.
        unsafe { asm!("tilezero tmm{}", const T, options(nomem, nostack, preserves_flags)) };
    }

    #[inline(always)]
    unsafe fn load<const T: u8>(&mut self, from: *const u8, stride: usize) {
        // SAFETY: the caller's promise, and `self` exists, so the machine has the instruction.
        unsafe {
            asm!("tileloadd tmm{}, [{} + {} * 1]", const T, in(reg) from, in(reg) stride,
                 options(readonly, nostack, preserves_flags));
        }
    }

    #[inline(always)]
    unsafe fn store<const T: u8>(&mut self, to: *mut u8, stride: usize) {
        // SAFETY: the caller's promise, and `self` exists, so the machine has the instruction.
        unsafe {
            asm!("tilestored [{} + {} * 1], tmm{}", in(reg) to, in(reg) stride, const T,
                 options(nostack, preserves_flags));
        }
    }

    #[inline(always)]
    fn dot_bf16<const C: u8, const A: u8, const B: u8>(&mut self) {
        // SAFETY: `self` exists, so the machine has the instruction; callers have configured the tiles.
        unsafe {
            asm!("tdpbf16ps tmm{}, tmm{}, tmm{}", const C, const A, const B,
                 options(nomem, nostack, preserves_flags));
        }
    }

    #[inline(always)]
    fn dot_bytes<const C: u8, const A: u8, const B: u8>(&mut self) {
        // SAFETY: `self` exists, so the machine has the instruction; callers have configured the tiles.
        unsafe {
            asm!("tdpbsud tmm{}, tmm{}, tmm{}", const C, const A, const B,
                 options(nomem, nostack, preserves_flags));
        }
    }
}
