//! One step of a sum, for each way in which float weights lie: a line of 16 rows meets a token's input.

use half::bf16;

use crate::simd::{LANES, Simd};

pub(super) trait Terms {
    /// Columns a step.
    const COLUMNS: usize;
    /// Bytes a step of a token's input.
    const INPUT: usize;
    /// Bytes a step of a strip's weights.
    const WEIGHTS: usize;
    /// The input is rounded before.
    const ROUNDED: bool = false;
    /// Tokens from which the weights are widened once a block, by `widen`.
    const WIDEN_FROM: usize = usize::MAX;

    type Input<S: Simd>: Copy;
    type Weights<S: Simd>: Copy;

    /// # Safety
    /// `WEIGHTS` bytes are readable at `from`.
    unsafe fn weights<S: Simd>(simd: S, from: *const u8) -> Self::Weights<S>;

    /// # Safety
    /// `INPUT` bytes are readable at `from`.
    unsafe fn input<S: Simd>(simd: S, from: *const u8) -> Self::Input<S>;

    fn add<S: Simd>(simd: S, input: Self::Input<S>, weights: Self::Weights<S>, sum: S::Vector) -> S::Vector;

    /// Lines of float32, for each of the step's columns.
    ///
    /// # Safety
    /// `WEIGHTS` bytes are readable at `from`, and `COLUMNS` lines writable at `to`.
    unsafe fn widen<S: Simd>(_simd: S, _from: *const u8, _to: *mut f32) {
        unreachable!("only narrow weights are widened")
    }
}

/// float32.
pub(super) struct Single;

impl Terms for Single {
    const COLUMNS: usize = 1;
    const INPUT: usize = 4;
    const WEIGHTS: usize = 64;

    type Input<S: Simd> = S::Vector;
    type Weights<S: Simd> = S::Vector;

    #[inline(always)]
    unsafe fn weights<S: Simd>(simd: S, from: *const u8) -> S::Vector {
        // SAFETY: the caller's promise.
        unsafe { simd.load(from.cast()) }
    }

    #[inline(always)]
    unsafe fn input<S: Simd>(simd: S, from: *const u8) -> S::Vector {
        // SAFETY: the caller's promise; rows of floats are aligned.
        simd.splat(unsafe { *from.cast::<f32>() })
    }

    #[inline(always)]
    fn add<S: Simd>(simd: S, input: S::Vector, weights: S::Vector, sum: S::Vector) -> S::Vector {
        simd.mul_add(input, weights, sum)
    }
}

/// float16 weights, widened as they are read.
pub(super) struct Half;

impl Terms for Half {
    const COLUMNS: usize = 1;
    const INPUT: usize = 4;
    const WEIGHTS: usize = 32;
    /// To widen with the first use is free on Zen 5, in any number of tokens, and a third of a multiplication on a machine
    /// whose multiplier also converts.
    const WIDEN_FROM: usize = super::TOKENS;

    type Input<S: Simd> = S::Vector;
    type Weights<S: Simd> = S::Vector;

    #[inline(always)]
    unsafe fn weights<S: Simd>(simd: S, from: *const u8) -> S::Vector {
        // SAFETY: the caller's promise.
        unsafe { simd.load_f16(from.cast()) }
    }

    #[inline(always)]
    unsafe fn input<S: Simd>(simd: S, from: *const u8) -> S::Vector {
        // SAFETY: the caller's promise.
        unsafe { Single::input(simd, from) }
    }

    #[inline(always)]
    fn add<S: Simd>(simd: S, input: S::Vector, weights: S::Vector, sum: S::Vector) -> S::Vector {
        simd.mul_add(input, weights, sum)
    }

    #[inline(always)]
    unsafe fn widen<S: Simd>(simd: S, from: *const u8, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { simd.store(to, Self::weights(simd, from)) };
    }
}

/// bfloat16 weights in pairs of columns, widened as they are read.
pub(super) struct WidenedPairs;

impl Terms for WidenedPairs {
    const COLUMNS: usize = 2;
    const INPUT: usize = 8;
    const WEIGHTS: usize = 64;
    /// The registers of a high tile have no room for both columns of a pair.
    const WIDEN_FROM: usize = 2 * super::MOST_ROWS + 1;

    type Input<S: Simd> = [S::Vector; 2];
    type Weights<S: Simd> = [S::Vector; 2];

    #[inline(always)]
    unsafe fn weights<S: Simd>(simd: S, from: *const u8) -> [S::Vector; 2] {
        // SAFETY: the caller's promise.
        let pairs = unsafe { simd.load_bytes(from) };
        [simd.even_bf16(pairs), simd.odd_bf16(pairs)]
    }

    #[inline(always)]
    unsafe fn input<S: Simd>(simd: S, from: *const u8) -> [S::Vector; 2] {
        // SAFETY: the caller's promise; rows of floats are aligned.
        let [even, odd] = unsafe { *from.cast::<[f32; 2]>() };
        [simd.splat(even), simd.splat(odd)]
    }

    #[inline(always)]
    fn add<S: Simd>(simd: S, input: [S::Vector; 2], weights: [S::Vector; 2], sum: S::Vector) -> S::Vector {
        simd.mul_add(input[1], weights[1], simd.mul_add(input[0], weights[0], sum))
    }

    #[inline(always)]
    unsafe fn widen<S: Simd>(simd: S, from: *const u8, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe {
            let [even, odd] = Self::weights(simd, from);
            simd.store(to, even);
            simd.store(to.add(LANES), odd);
        }
    }
}

/// bfloat16 weights and input, in pairs of columns.
pub(super) struct Pairs;

impl Terms for Pairs {
    const COLUMNS: usize = 2;
    const INPUT: usize = 2 * size_of::<bf16>();
    const WEIGHTS: usize = 64;
    const ROUNDED: bool = true;

    type Input<S: Simd> = S::Bytes;
    type Weights<S: Simd> = S::Bytes;

    #[inline(always)]
    unsafe fn weights<S: Simd>(simd: S, from: *const u8) -> S::Bytes {
        // SAFETY: the caller's promise.
        unsafe { simd.load_bytes(from) }
    }

    #[inline(always)]
    unsafe fn input<S: Simd>(simd: S, from: *const u8) -> S::Bytes {
        // SAFETY: the caller's promise.
        unsafe { simd.splat_four(from.cast()) }
    }

    #[inline(always)]
    fn add<S: Simd>(simd: S, input: S::Bytes, weights: S::Bytes, sum: S::Vector) -> S::Vector {
        simd.dot_bf16(input, weights, sum)
    }
}
