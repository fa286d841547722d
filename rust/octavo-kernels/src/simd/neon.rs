//! NEON: four registers a vector. Instructions whose intrinsics the oldest supported compiler lacks are assembled.

use std::arch::aarch64::*;
use std::arch::asm;

use super::{Kernel, Simd};

/// The proof that this machine has dot products of bytes, if DOT; NEON itself belongs to the target.
#[derive(Clone, Copy)]
pub(crate) struct Neon<const DOT: bool>(());

impl Neon<false> {
    pub(crate) fn new() -> Self {
        Self(())
    }
}

impl Neon<true> {
    /// # Safety
    /// `Isa::NeonDot.is_available()`.
    pub(crate) unsafe fn assume() -> Self {
        Self(())
    }
}

fn enter<K: Kernel>(simd: Neon<false>, kernel: K) -> K::Output {
    kernel.run(simd)
}

#[target_feature(enable = "neon,dotprod")]
fn enter_dot<K: Kernel>(simd: Neon<true>, kernel: K) -> K::Output {
    kernel.run(simd)
}

#[derive(Clone, Copy)]
pub(crate) struct Four(float32x4_t, float32x4_t, float32x4_t, float32x4_t);

#[derive(Clone, Copy)]
pub(crate) struct FourBytes(uint8x16_t, uint8x16_t, uint8x16_t, uint8x16_t);

#[derive(Clone, Copy)]
pub(crate) struct FourIntegers(int32x4_t, int32x4_t, int32x4_t, int32x4_t);

/// The operation on each register of one, two or three vectors. It takes NEON alone, or is `dot_at_once`.
macro_rules! each {
    ($operation:ident, $($x:expr),+) => { each!(=> Four, $operation, $($x),+) };
    (=> $result:ident, $operation:ident, $($x:expr),+) => {
        // SAFETY: the target has NEON; `dot_at_once` is called where a `Neon<true>` says that there are dot products.
        unsafe { $result($operation($($x.0),+), $operation($($x.1),+), $operation($($x.2),+), $operation($($x.3),+)) }
    };
}

/// # Safety
/// 4 elements are readable at `from`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn widen_bf16(from: *const half::bf16) -> float32x4_t {
    // SAFETY: the caller's promise.
    let raw = unsafe { vld1_u16(from.cast()) };
    vreinterpretq_f32_u32(vshll_n_u16::<16>(raw))
}

/// # Safety
/// 4 elements are readable at `from`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn widen_f16(from: *const half::f16) -> float32x4_t {
    // SAFETY: the caller's promise.
    let raw = unsafe { vld1_u16(from.cast()) };
    let wide: float32x4_t;
    // SAFETY: an instruction of every 64-bit ARM, on registers alone.
    unsafe {
        asm!("fcvtl {wide:v}.4s, {raw:v}.4h", wide = lateout(vreg) wide, raw = in(vreg) raw,
             options(pure, nomem, nostack, preserves_flags));
    }
    wide
}

#[inline]
#[target_feature(enable = "neon")]
fn smaller(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    vbslq_f32(vcltq_f32(a, b), a, b)
}

#[inline]
#[target_feature(enable = "neon")]
fn larger(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    vbslq_f32(vcgtq_f32(a, b), a, b)
}

/// c + a · b
#[inline]
#[target_feature(enable = "neon")]
fn fused(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
    vfmaq_f32(c, a, b)
}

#[inline]
#[target_feature(enable = "neon")]
fn power_of_two4(exponent: float32x4_t) -> float32x4_t {
    let biased = vaddq_s32(vcvtq_s32_f32(exponent), vdupq_n_s32(127));
    vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased))
}

#[inline]
#[target_feature(enable = "neon")]
fn zero_below4(x: float32x4_t, limit: float32x4_t, value: float32x4_t) -> float32x4_t {
    vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(value), vcltq_f32(x, limit)))
}

/// A bit for each of 16 lanes that are all ones or zeros.
#[inline]
#[target_feature(enable = "neon")]
fn bits(mask: [uint32x4_t; 4]) -> u32 {
    const LANE: [[u32; 4]; 4] = [
        [1 << 0, 1 << 1, 1 << 2, 1 << 3],
        [1 << 4, 1 << 5, 1 << 6, 1 << 7],
        [1 << 8, 1 << 9, 1 << 10, 1 << 11],
        [1 << 12, 1 << 13, 1 << 14, 1 << 15],
    ];
    let mut result = vdupq_n_u32(0);
    for (mask, lane) in mask.into_iter().zip(&LANE) {
        // SAFETY: `lane` has 4 integers.
        result = vorrq_u32(result, vandq_u32(mask, unsafe { vld1q_u32(lane.as_ptr()) }));
    }
    vaddvq_u32(result)
}

#[inline]
#[target_feature(enable = "neon")]
fn sum4(x: float32x4_t) -> f32 {
    let two = vadd_f32(vget_low_f32(x), vget_high_f32(x));
    vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
}

#[inline]
#[target_feature(enable = "neon")]
fn largest4(x: float32x4_t) -> f32 {
    let two = larger(x, vextq_f32::<2>(x, x));
    let one = larger(two, vextq_f32::<1>(two, two));
    vgetq_lane_f32::<0>(one)
}

/// 16 floats of 16 integers in as many bytes, from their two halves in 16 bits.
#[inline]
#[target_feature(enable = "neon")]
fn widen(low: int16x8_t, high: int16x8_t) -> Four {
    Four(
        vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
        vcvtq_f32_s32(vmovl_s16(vget_high_s16(low))),
        vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
        vcvtq_f32_s32(vmovl_s16(vget_high_s16(high))),
    )
}

#[inline]
#[target_feature(enable = "neon")]
fn narrow(x: Four) -> int8x16_t {
    let low = vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(x.0)), vqmovn_s32(vcvtnq_s32_f32(x.1)));
    let high = vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(x.2)), vqmovn_s32(vcvtnq_s32_f32(x.3)));
    vcombine_s8(vqmovn_s16(low), vqmovn_s16(high))
}

#[inline]
#[target_feature(enable = "neon")]
fn shift(x: uint8x16_t, left: i32) -> uint8x16_t {
    vreinterpretq_u8_u32(vshlq_u32(vreinterpretq_u32_u8(x), vdupq_n_s32(left)))
}

#[inline]
#[target_feature(enable = "neon")]
fn even(pairs: uint8x16_t) -> float32x4_t {
    vreinterpretq_f32_u8(shift(pairs, 16))
}

#[inline]
#[target_feature(enable = "neon")]
fn odd(pairs: uint8x16_t) -> float32x4_t {
    vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_u8(pairs), vdupq_n_u32(0xffff_0000)))
}

/// Adds to each lane the products of its 4 signed bytes. Two products, of at least -128 and -127, fit in 16 bits.
#[inline]
#[target_feature(enable = "neon")]
fn dot_by_halves(sum: int32x4_t, a: uint8x16_t, b: uint8x16_t) -> int32x4_t {
    let (a, b) = (vreinterpretq_s8_u8(a), vreinterpretq_s8_u8(b));
    let low = vmull_s8(vget_low_s8(a), vget_low_s8(b));
    let high = vmull_s8(vget_high_s8(a), vget_high_s8(b));
    vpadalq_s16(sum, vpaddq_s16(low, high))
}

/// The same in one instruction.
///
/// # Safety
/// The machine has dot products.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn dot_at_once(mut sum: int32x4_t, a: uint8x16_t, b: uint8x16_t) -> int32x4_t {
    // SAFETY: the caller's promise; registers alone.
    unsafe {
        asm!("sdot {sum:v}.4s, {a:v}.16b, {b:v}.16b", sum = inout(vreg) sum, a = in(vreg) a, b = in(vreg) b,
             options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

impl<const DOT: bool> Neon<DOT> {
    #[inline(always)]
    fn dot_signed(self, sums: FourIntegers, a: FourBytes, b: FourBytes) -> FourIntegers {
        if DOT {
            each!(=> FourIntegers, dot_at_once, sums, a, b)
        } else {
            each!(=> FourIntegers, dot_by_halves, sums, a, b)
        }
    }
}

impl<const DOT: bool> Simd for Neon<DOT> {
    type Vector = Four;
    type Bytes = FourBytes;
    type Integers = FourIntegers;
    type Partial = FourIntegers;

    const ACCUMULATORS: usize = 6;
    const TOKENS: usize = 2;
    const UNSIGNED_CODES: bool = false;

    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        if DOT {
            // SAFETY: `self` exists, so the machine has dot products.
            unsafe { enter_dot(Neon(()), kernel) }
        } else {
            enter(Neon(()), kernel)
        }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Four {
        // SAFETY: the target has NEON.
        let x = unsafe { vdupq_n_f32(x) };
        Four(x, x, x, x)
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Four {
        // SAFETY: the caller's promise.
        unsafe { Four(vld1q_f32(from), vld1q_f32(from.add(4)), vld1q_f32(from.add(8)), vld1q_f32(from.add(12))) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, x: Four) {
        // SAFETY: the caller's promise.
        unsafe {
            vst1q_f32(to, x.0);
            vst1q_f32(to.add(4), x.1);
            vst1q_f32(to.add(8), x.2);
            vst1q_f32(to.add(12), x.3);
        }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, from: *const half::bf16) -> Four {
        // SAFETY: the caller's promise.
        unsafe { Four(widen_bf16(from), widen_bf16(from.add(4)), widen_bf16(from.add(8)), widen_bf16(from.add(12))) }
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const half::f16) -> Four {
        // SAFETY: the caller's promise.
        unsafe { Four(widen_f16(from), widen_f16(from.add(4)), widen_f16(from.add(8)), widen_f16(from.add(12))) }
    }

    #[inline(always)]
    fn add(self, a: Four, b: Four) -> Four {
        each!(vaddq_f32, a, b)
    }

    #[inline(always)]
    fn sub(self, a: Four, b: Four) -> Four {
        each!(vsubq_f32, a, b)
    }

    #[inline(always)]
    fn mul(self, a: Four, b: Four) -> Four {
        each!(vmulq_f32, a, b)
    }

    #[inline(always)]
    fn div(self, a: Four, b: Four) -> Four {
        each!(vdivq_f32, a, b)
    }

    #[inline(always)]
    fn min(self, a: Four, b: Four) -> Four {
        each!(smaller, a, b)
    }

    #[inline(always)]
    fn max(self, a: Four, b: Four) -> Four {
        each!(larger, a, b)
    }

    #[inline(always)]
    fn mul_add(self, a: Four, b: Four, c: Four) -> Four {
        each!(fused, a, b, c)
    }

    #[inline(always)]
    fn round(self, x: Four) -> Four {
        each!(vrndnq_f32, x)
    }

    #[inline(always)]
    fn power_of_two(self, exponent: Four) -> Four {
        each!(power_of_two4, exponent)
    }

    #[inline(always)]
    fn zero_below(self, x: Four, limit: Four, value: Four) -> Four {
        each!(zero_below4, x, limit, value)
    }

    #[inline(always)]
    fn at_least(self, a: Four, b: Four) -> u32 {
        // SAFETY: the target has NEON.
        unsafe { bits([vcgeq_f32(a.0, b.0), vcgeq_f32(a.1, b.1), vcgeq_f32(a.2, b.2), vcgeq_f32(a.3, b.3)]) }
    }

    #[inline(always)]
    fn greater(self, a: Four, b: Four) -> u32 {
        // SAFETY: the target has NEON.
        unsafe { bits([vcgtq_f32(a.0, b.0), vcgtq_f32(a.1, b.1), vcgtq_f32(a.2, b.2), vcgtq_f32(a.3, b.3)]) }
    }

    #[inline(always)]
    fn sum(self, x: Four) -> f32 {
        // SAFETY: the target has NEON.
        unsafe { sum4(vaddq_f32(vaddq_f32(x.0, x.2), vaddq_f32(x.1, x.3))) }
    }

    #[inline(always)]
    fn largest(self, x: Four) -> f32 {
        // SAFETY: the target has NEON.
        unsafe { largest4(larger(larger(x.0, x.2), larger(x.1, x.3))) }
    }

    #[inline(always)]
    unsafe fn load_u8(self, from: *const u8) -> Four {
        // SAFETY: the caller's promise, and the target has NEON.
        unsafe {
            let bytes = vld1q_u8(from);
            widen(
                vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(bytes))),
                vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(bytes))),
            )
        }
    }

    #[inline(always)]
    unsafe fn load_i8(self, from: *const i8) -> Four {
        // SAFETY: the caller's promise, and the target has NEON.
        unsafe {
            let bytes = vld1q_s8(from);
            widen(vmovl_s8(vget_low_s8(bytes)), vmovl_s8(vget_high_s8(bytes)))
        }
    }

    #[inline(always)]
    unsafe fn store_i8(self, to: *mut i8, x: Four) {
        // SAFETY: the caller's promise, and the target has NEON.
        unsafe { vst1q_s8(to, narrow(x)) };
    }

    #[inline(always)]
    fn prefetch(self, from: *const u8) {
        // SAFETY: a prefetch does not fault.
        unsafe { asm!("prfm pldl1keep, [{}]", in(reg) from, options(readonly, nostack, preserves_flags)) };
    }

    #[inline(always)]
    fn prefetch_far(self, from: *const u8) {
        // SAFETY: a prefetch does not fault.
        unsafe { asm!("prfm pldl2keep, [{}]", in(reg) from, options(readonly, nostack, preserves_flags)) };
    }

    #[inline(always)]
    unsafe fn load_bytes(self, from: *const u8) -> FourBytes {
        // SAFETY: the caller's promise, and the target has NEON.
        unsafe { FourBytes(vld1q_u8(from), vld1q_u8(from.add(16)), vld1q_u8(from.add(32)), vld1q_u8(from.add(48))) }
    }

    #[inline(always)]
    unsafe fn splat_four(self, from: *const i8) -> FourBytes {
        // SAFETY: the caller's promise, and the target has NEON.
        unsafe {
            let four = vreinterpretq_u8_u32(vdupq_n_u32(from.cast::<u32>().read_unaligned()));
            FourBytes(four, four, four, four)
        }
    }

    #[inline(always)]
    fn and_each(self, x: FourBytes, mask: u8) -> FourBytes {
        // SAFETY: the target has NEON.
        let mask = unsafe { vdupq_n_u8(mask) };
        let mask = FourBytes(mask, mask, mask, mask);
        each!(=> FourBytes, vandq_u8, x, mask)
    }

    #[inline(always)]
    fn or(self, a: FourBytes, b: FourBytes) -> FourBytes {
        each!(=> FourBytes, vorrq_u8, a, b)
    }

    #[inline(always)]
    fn shift_left<const N: u32>(self, x: FourBytes) -> FourBytes {
        let by = N as i32;
        // SAFETY: the target has NEON.
        unsafe { FourBytes(shift(x.0, by), shift(x.1, by), shift(x.2, by), shift(x.3, by)) }
    }

    #[inline(always)]
    fn shift_right<const N: u32>(self, x: FourBytes) -> FourBytes {
        let by = -(N as i32);
        // SAFETY: the target has NEON.
        unsafe { FourBytes(shift(x.0, by), shift(x.1, by), shift(x.2, by), shift(x.3, by)) }
    }

    #[inline(always)]
    fn zero_integers(self) -> FourIntegers {
        // SAFETY: the target has NEON.
        let zero = unsafe { vdupq_n_s32(0) };
        FourIntegers(zero, zero, zero, zero)
    }

    #[inline(always)]
    unsafe fn splat_integer_at(self, from: *const i32) -> FourIntegers {
        // SAFETY: the caller's promise, and the target has NEON.
        let x = unsafe { vdupq_n_s32(*from) };
        FourIntegers(x, x, x, x)
    }

    #[inline(always)]
    fn sub_integers(self, a: FourIntegers, b: FourIntegers) -> FourIntegers {
        each!(=> FourIntegers, vsubq_s32, a, b)
    }

    #[inline(always)]
    fn shift_integers<const N: u32>(self, x: FourIntegers) -> FourIntegers {
        // SAFETY: the target has NEON.
        let by = unsafe { vdupq_n_s32(N as i32) };
        let by = FourIntegers(by, by, by, by);
        each!(=> FourIntegers, vshlq_s32, x, by)
    }

    #[inline(always)]
    fn to_floats(self, x: FourIntegers) -> Four {
        each!(vcvtq_f32_s32, x)
    }

    #[inline(always)]
    fn capacity(bits: usize) -> usize {
        if bits == 6 { 4 } else { 8 }
    }

    #[inline(always)]
    fn open(self, sums: FourIntegers) -> FourIntegers {
        sums
    }

    #[inline(always)]
    fn dot(self, partial: FourIntegers, codes: FourBytes, values: FourBytes) -> FourIntegers {
        self.dot_signed(partial, codes, values)
    }

    #[inline(always)]
    fn dot_bytes(self, partial: FourIntegers, codes: FourBytes, values: FourBytes) -> FourIntegers {
        // SAFETY: the target has NEON.
        let offset = unsafe { vdupq_n_u8(128) };
        let offset = FourBytes(offset, offset, offset, offset);
        self.dot_signed(partial, each!(=> FourBytes, veorq_u8, codes, offset), values)
    }

    #[inline(always)]
    fn close(self, _sums: FourIntegers, partial: FourIntegers) -> FourIntegers {
        partial
    }

    #[inline(always)]
    fn even_bf16(self, pairs: FourBytes) -> Four {
        each!(even, pairs)
    }

    #[inline(always)]
    fn odd_bf16(self, pairs: FourBytes) -> Four {
        each!(odd, pairs)
    }
}
