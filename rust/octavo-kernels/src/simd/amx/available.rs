//! Whether this process may use AMX: the processor has it, the system keeps its state, and its products are right.
//!
//! The last is seen by small products, as no test has run on such a machine.

#[cfg(target_os = "linux")]
use std::arch::{asm, x86_64::_xgetbv};
use std::sync::OnceLock;

use half::bf16;

use super::emulated::Emulated;
use super::{Amx, ROW, ROWS, Tiles};

pub(super) fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        if !(has_instructions() && may_use_state()) {
            return false;
        }
        // SAFETY: the machine has AMX, and this process may use it.
        let machine = unsafe { Amx::assume() };
        let is_right =
            products(machine) == products(Emulated::new()) && byte_products(machine) == byte_products(Emulated::new());
        if !is_right {
            eprintln!("octavo: AMX stays unused, as its products on this machine are not those of its definition");
        }
        is_right
    })
}

/// The processor has AMX for bfloat16 and int8, and the system has enabled its state. The caller has seen AVX-512.
#[cfg(target_os = "linux")]
fn has_instructions() -> bool {
    const BF16_TILE_INT8: u32 = 1 << 22 | 1 << 24 | 1 << 25;
    const TILE_STATE: u64 = 1 << 17 | 1 << 18;
    if !is_x86_feature_detected!("avx512f") || !is_x86_feature_detected!("xsave") {
        return false;
    }
    // SAFETY: the machine has XSAVE, and the system has enabled it, or it would not be detected.
    let state = unsafe { _xgetbv(0) };
    extended_features() & BF16_TILE_INT8 == BF16_TILE_INT8 && state & TILE_STATE == TILE_STATE
}

/// EDX of CPUID's leaf 7. Its intrinsic is unsafe in some of the compilers that build this, and safe in others.
#[cfg(target_os = "linux")]
fn extended_features() -> u32 {
    let features: u32;
    // SAFETY: every x86-64 has CPUID, and those with AVX-512 have leaf 7. RBX, which the compiler keeps, is restored.
    unsafe {
        asm!("mov {saved:r}, rbx", "cpuid", "mov rbx, {saved:r}", saved = out(reg) _, inout("eax") 7 => _,
             inout("ecx") 0 => _, out("edx") features, options(nomem, nostack, preserves_flags));
    }
    features
}

/// Linux gives the 8 KiB of a thread's tiles only to processes that ask for them, once for all threads.
#[cfg(target_os = "linux")]
fn may_use_state() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_int = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_ulong = 18;
    // SAFETY: takes two integers; refused with an error where it is not known.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn has_instructions() -> bool {
    false
}

#[cfg(not(target_os = "linux"))]
fn may_use_state() -> bool {
    false
}

/// Tokens of the lower tile; not all, so that rows past its end are seen to stay.
const LOWER: usize = 5;

/// Floats from one token's sums to the next.
const STRIDE: usize = 2 * ROW / 4;

/// Two tiles of tokens by two of weights, onto sums that are there (left) and from zero, by every instruction. All sums
/// are of small integers, and so exact in any order.
fn products<T: Tiles>(mut tiles: T) -> Vec<f32> {
    const COLUMNS: usize = ROW / size_of::<bf16>();
    let input = integers(2 * ROWS * COLUMNS, 7);
    let weights = integers(2 * ROWS * COLUMNS, 5);
    let mut sums: Vec<f32> = (0..2 * ROWS * STRIDE).map(|index| index as f32).collect();
    tiles.configure([ROWS, LOWER], COLUMNS / 2);
    // SAFETY: all three hold two tiles of rows, one below the other, and `sums` two beside each other.
    unsafe {
        let stride = STRIDE * size_of::<f32>();
        let upper = sums.as_mut_ptr().cast::<u8>();
        let lower = upper.add(ROWS * stride);
        tiles.load::<0>(upper, stride);
        tiles.zero::<1>();
        tiles.load::<2>(lower, stride);
        tiles.zero::<3>();
        tiles.load::<4>(input.as_ptr().cast(), ROW);
        tiles.load::<5>(input[ROWS * COLUMNS..].as_ptr().cast(), ROW);
        tiles.load::<6>(weights.as_ptr().cast(), ROW);
        tiles.load::<7>(weights[ROWS * COLUMNS..].as_ptr().cast(), ROW);
        tiles.dot_bf16::<0, 4, 6>();
        tiles.dot_bf16::<1, 4, 7>();
        tiles.dot_bf16::<2, 5, 6>();
        tiles.dot_bf16::<3, 5, 7>();
        tiles.store::<0>(upper, stride);
        tiles.store::<1>(upper.add(ROW), stride);
        tiles.store::<2>(lower, stride);
        tiles.store::<3>(lower.add(ROW), stride);
    }
    tiles.release();
    sums
}

/// Columns of `byte_products`: half of what a tile has room for.
const BYTES: usize = ROW / 2;

/// A tile of signed bytes by one of unsigned bytes, from zero.
fn byte_products<T: Tiles>(mut tiles: T) -> Vec<i32> {
    let (input, weights) = (bytes(ROWS * BYTES, 7), bytes(ROWS * BYTES, 5));
    let mut sums = vec![0; ROWS * ROWS];
    tiles.configure([ROWS, 0], BYTES / 4);
    // SAFETY: all three hold a tile; rows of the input have BYTES bytes.
    unsafe {
        tiles.zero::<0>();
        tiles.load::<4>(input.as_ptr(), BYTES);
        tiles.load::<6>(weights.as_ptr(), ROW);
        tiles.dot_bytes::<0, 4, 6>();
        tiles.store::<0>(sums.as_mut_ptr().cast(), ROW);
    }
    tiles.release();
    sums
}

fn bytes(count: usize, seed: usize) -> Vec<u8> {
    (0..count).map(|index| ((index * index + seed * index) % 251 + 2) as u8).collect()
}

/// From -11 to 11.
fn integers(count: usize, seed: usize) -> Vec<bf16> {
    (0..count).map(|index| bf16::from_f32(((index * index + seed * index) % 23) as f32 - 11.0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_emulation_makes_the_products() {
        const COLUMNS: usize = ROW / 2;
        let (input, weights) = (integers(2 * ROWS * COLUMNS, 7), integers(2 * ROWS * COLUMNS, 5));
        let sums = products(Emulated::new());
        for (index, sum) in sums.into_iter().enumerate() {
            let (token, column) = (index / STRIDE, index % STRIDE);
            let (strip, lane) = (column / ROWS, column % ROWS);
            let products = (0..COLUMNS).map(|k| {
                let weight = weights[strip * ROWS * COLUMNS + k / 2 * COLUMNS + 2 * lane + k % 2];
                input[token * COLUMNS + k].to_f32() * weight.to_f32()
            });
            let before = if strip == 0 { index as f32 } else { 0.0 };
            let expected = if token < ROWS + LOWER { before + products.sum::<f32>() } else { index as f32 };
            assert_eq!(sum, expected, "({token}, {column})");
        }
    }

    #[test]
    fn the_emulation_makes_the_products_of_bytes() {
        let (input, weights) = (bytes(ROWS * BYTES, 7), bytes(ROWS * BYTES, 5));
        for (index, sum) in byte_products(Emulated::new()).into_iter().enumerate() {
            let (token, lane) = (index / ROWS, index % ROWS);
            let products = (0..BYTES).map(|k| {
                i32::from(input[token * BYTES + k] as i8) * i32::from(weights[k / 4 * ROW + lane * 4 + k % 4])
            });
            assert_eq!(sum, products.sum::<i32>(), "({token}, {lane})");
        }
    }

    #[test]
    fn what_the_machine_offers_is_right() {
        assert_eq!(is_available(), has_instructions() && may_use_state());
    }
}
