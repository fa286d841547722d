//! AVX2 with FMA and F16C: two registers a vector.

use std::arch::x86_64::*;

use super::{Kernel, Simd};

/// The proof that this machine has AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// # Safety
    /// The machine has AVX2, FMA and F16C: `Isa::Avx2.is_available()`.
    pub(crate) unsafe fn assume() -> Self {
        Self(())
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn enter<K: Kernel>(simd: Avx2, kernel: K) -> K::Output {
    kernel.run(simd)
}

#[derive(Clone, Copy)]
pub(crate) struct Pair(__m256, __m256);

#[derive(Clone, Copy)]
pub(crate) struct IntegerPair(__m256i, __m256i);

/// # Safety
/// 8 elements are readable at `from`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn widen_bf16(from: *const half::bf16) -> __m256 {
    // SAFETY: the caller's promise.
    let raw = unsafe { _mm_loadu_si128(from.cast()) };
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(raw)))
}

/// The bfloat16 nearest to each lane, in its lower half.
#[inline]
#[target_feature(enable = "avx2")]
fn round_bf16(x: __m256) -> __m256i {
    let bits = _mm256_castps_si256(x);
    let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
    let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(1 << 22));
    let is_nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(x, x));
    _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, is_nan))
}

#[inline]
#[target_feature(enable = "avx2")]
fn power_of_two8(exponent: __m256) -> __m256 {
    let biased = _mm256_add_epi32(_mm256_cvtps_epi32(exponent), _mm256_set1_epi32(127));
    _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn sum8(x: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn largest8(x: __m256) -> f32 {
    let four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
}

/// The sums of the first and of the last four lanes.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn half_sums(x: __m256i) -> [i32; 2] {
    let pairs = _mm_hadd_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
    let both = _mm_cvtsi128_si64(_mm_hadd_epi32(pairs, pairs));
    [both as i32, (both >> 32) as i32]
}

impl Simd for Avx2 {
    type Vector = Pair;
    type Bytes = IntegerPair;
    type Integers = IntegerPair;
    /// i16: sums of two products, which `close` adds up.
    type Partial = IntegerPair;

    const ACCUMULATORS: usize = 6;
    const TOKENS: usize = 2;
    const UNSIGNED_CODES: bool = false;

    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe { enter(self, kernel) }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Pair {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe { Pair(_mm256_set1_ps(x), _mm256_set1_ps(x)) }
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Pair {
        // SAFETY: the caller's promise, and `self` exists, so the machine has the instructions.
        unsafe { Pair(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, x: Pair) {
        // SAFETY: the caller's promise, and `self` exists, so the machine has the instructions.
        unsafe {
            _mm256_storeu_ps(to, x.0);
            _mm256_storeu_ps(to.add(8), x.1);
        }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, from: *const half::bf16) -> Pair {
        // SAFETY: the caller's promise, and `self` exists, so the machine has the instructions.
        unsafe { Pair(widen_bf16(from), widen_bf16(from.add(8))) }
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const half::f16) -> Pair {
        // SAFETY: the caller's promise, and `self` exists, so the machine has the instructions.
        unsafe {
            let from = from.cast::<__m128i>();
            Pair(_mm256_cvtph_ps(_mm_loadu_si128(from)), _mm256_cvtph_ps(_mm_loadu_si128(from.add(1))))
        }
    }

    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut half::bf16, x: Pair) {
        // SAFETY: the caller's promise, and `self` exists, so the machine has the instructions.
        unsafe {
            let packed = _mm256_packus_epi32(round_bf16(x.0), round_bf16(x.1));
            _mm256_storeu_si256(to.cast(), _mm256_permute4x64_epi64::<0b11_01_10_00>(packed));
        }
    }

    #[inline(always)]
    unsafe fn store_f16(self, to: *mut half::f16, x: Pair) {
        // SAFETY: the caller's promise, and `self` exists, so the machine has the instructions.
        unsafe {
            let to = to.cast::<__m128i>();
            _mm_storeu_si128(to, _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x.0));
            _mm_storeu_si128(to.add(1), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x.1));
        }
    }

    #[inline(always)]
    fn add(self, a: Pair, b: Pair) -> Pair {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe { Pair(_mm256_add_ps(a.0, b.0), _mm256_add_ps(a.1, b.1)) }
    }

    #[inline(always)]
    fn sub(self, a: Pair, b: Pair) -> Pair {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe { Pair(_mm256_sub_ps(a.0, b.0), _mm256_sub_ps(a.1, b.1)) }
    }

    #[inline(always)]
    fn mul(self, a: Pair, b: Pair) -> Pair {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe { Pair(_mm256_mul_ps(a.0, b.0), _mm256_mul_ps(a.1, b.1)) }
    }

    #[inline(always)]
    fn div(self, a: Pair, b: Pair) -> Pair {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe { Pair(_mm256_div_ps(a.0, b.0), _mm256_div_ps(a.1, b.1)) }
    }

    #[inline(always)]
    fn min(self, a: Pair, b: Pair) -> Pair {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe { Pair(_mm256_min_ps(a.0, b.0), _mm256_min_ps(a.1, b.1)) }
    }

    #[inline(always)]
    fn max(self, a: Pair, b: Pair) -> Pair {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe { Pair(_mm256_max_ps(a.0, b.0), _mm256_max_ps(a.1, b.1)) }
    }

    #[inline(always)]
    fn mul_add(self, a: Pair, b: Pair, c: Pair) -> Pair {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe { Pair(_mm256_fmadd_ps(a.0, b.0, c.0), _mm256_fmadd_ps(a.1, b.1, c.1)) }
    }

    #[inline(always)]
    fn round(self, x: Pair) -> Pair {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe {
            const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
            Pair(_mm256_round_ps::<NEAREST>(x.0), _mm256_round_ps::<NEAREST>(x.1))
        }
    }

    #[inline(always)]
    fn power_of_two(self, exponent: Pair) -> Pair {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe { Pair(power_of_two8(exponent.0), power_of_two8(exponent.1)) }
    }

    #[inline(always)]
    fn zero_below(self, x: Pair, limit: Pair, value: Pair) -> Pair {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe {
            Pair(
                _mm256_andnot_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(x.0, limit.0), value.0),
                _mm256_andnot_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(x.1, limit.1), value.1),
            )
        }
    }

    #[inline(always)]
    fn at_least(self, a: Pair, b: Pair) -> u32 {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe {
            let low = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(a.0, b.0));
            let high = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(a.1, b.1));
            (low | high << 8) as u32
        }
    }

    #[inline(always)]
    fn greater(self, a: Pair, b: Pair) -> u32 {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe {
            let low = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(a.0, b.0));
            let high = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(a.1, b.1));
            (low | high << 8) as u32
        }
    }

    #[inline(always)]
    fn sum(self, x: Pair) -> f32 {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe { sum8(_mm256_add_ps(x.0, x.1)) }
    }

    #[inline(always)]
    fn largest(self, x: Pair) -> f32 {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe { largest8(_mm256_max_ps(x.0, x.1)) }
    }

    #[inline(always)]
    unsafe fn load_u8(self, from: *const u8) -> Pair {
        // SAFETY: the caller's promise, and `self` exists, so the machine has the instructions.
        unsafe {
            let low = _mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast()));
            let high = _mm256_cvtepu8_epi32(_mm_loadl_epi64(from.add(8).cast()));
            Pair(_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high))
        }
    }

    #[inline(always)]
    unsafe fn load_i8(self, from: *const i8) -> Pair {
        // SAFETY: the caller's promise, and `self` exists, so the machine has the instructions.
        unsafe {
            let low = _mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast()));
            let high = _mm256_cvtepi8_epi32(_mm_loadl_epi64(from.add(8).cast()));
            Pair(_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high))
        }
    }

    #[inline(always)]
    unsafe fn store_i8(self, to: *mut i8, x: Pair) {
        // SAFETY: the caller's promise, and `self` exists, so the machine has the instructions.
        unsafe {
            let words = _mm256_packs_epi32(_mm256_cvtps_epi32(x.0), _mm256_cvtps_epi32(x.1));
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            let bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(to.cast(), bytes);
        }
    }

    #[inline(always)]
    unsafe fn store_rounded_i8(self, to: *mut i8, x: [Pair; 2]) -> [i32; 2] {
        // SAFETY: the caller's promise, and `self` exists, so the machine has the instructions.
        unsafe {
            let first = _mm256_packs_epi32(_mm256_cvtps_epi32(x[0].0), _mm256_cvtps_epi32(x[0].1));
            let second = _mm256_packs_epi32(_mm256_cvtps_epi32(x[1].0), _mm256_cvtps_epi32(x[1].1));
            // Fours of bytes, which the packing has put in the order 0 2 4 6 1 3 5 7.
            let mixed = _mm256_packs_epi16(first, second);
            let bytes = _mm256_permutevar8x32_epi32(mixed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
            _mm256_storeu_si256(to.cast(), bytes);
            let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes);
            half_sums(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
    }

    #[inline(always)]
    fn abs(self, x: Pair) -> Pair {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe {
            let sign = _mm256_set1_ps(-0.0);
            Pair(_mm256_andnot_ps(sign, x.0), _mm256_andnot_ps(sign, x.1))
        }
    }

    #[inline(always)]
    fn prefetch_far(self, from: *const u8) {
        // SAFETY: a prefetch does not fault, and `self` exists, so the machine has the instruction.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(from.cast()) }
    }

    #[inline(always)]
    fn prefetch(self, from: *const u8) {
        // SAFETY: a prefetch does not fault, and `self` exists, so the machine has the instruction.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
    }

    #[inline(always)]
    unsafe fn load_bytes(self, from: *const u8) -> IntegerPair {
        // SAFETY: the caller's promise, and `self` exists, so the machine has the instructions.
        unsafe {
            let from = from.cast::<__m256i>();
            IntegerPair(_mm256_loadu_si256(from), _mm256_loadu_si256(from.add(1)))
        }
    }

    #[cfg(avx512)]
    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut u8, x: IntegerPair) {
        // SAFETY: the caller's promise, and `self` exists, so the machine has the instructions.
        unsafe {
            _mm256_storeu_si256(to.cast(), x.0);
            _mm256_storeu_si256(to.add(32).cast(), x.1);
        }
    }

    #[inline(always)]
    unsafe fn splat_four(self, from: *const i8) -> IntegerPair {
        // SAFETY: the caller's promise, and `self` exists, so the machine has the instructions.
        unsafe {
            let four = _mm256_set1_epi32(from.cast::<i32>().read_unaligned());
            IntegerPair(four, four)
        }
    }

    #[inline(always)]
    fn and_each(self, x: IntegerPair, mask: u8) -> IntegerPair {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe {
            let mask = _mm256_set1_epi8(mask as i8);
            IntegerPair(_mm256_and_si256(x.0, mask), _mm256_and_si256(x.1, mask))
        }
    }

    #[inline(always)]
    fn or(self, a: IntegerPair, b: IntegerPair) -> IntegerPair {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe { IntegerPair(_mm256_or_si256(a.0, b.0), _mm256_or_si256(a.1, b.1)) }
    }

    #[inline(always)]
    fn shift_left<const N: u32>(self, x: IntegerPair) -> IntegerPair {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe {
            let count = _mm_cvtsi32_si128(N as i32);
            IntegerPair(_mm256_sll_epi32(x.0, count), _mm256_sll_epi32(x.1, count))
        }
    }

    #[inline(always)]
    fn shift_right<const N: u32>(self, x: IntegerPair) -> IntegerPair {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe {
            let count = _mm_cvtsi32_si128(N as i32);
            IntegerPair(_mm256_srl_epi32(x.0, count), _mm256_srl_epi32(x.1, count))
        }
    }

    #[inline(always)]
    fn zero_integers(self) -> IntegerPair {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe { IntegerPair(_mm256_setzero_si256(), _mm256_setzero_si256()) }
    }

    #[inline(always)]
    unsafe fn splat_integer_at(self, from: *const i32) -> IntegerPair {
        // SAFETY: the caller's promise, and `self` exists, so the machine has the instructions.
        unsafe {
            let x = _mm256_set1_epi32(*from);
            IntegerPair(x, x)
        }
    }

    #[cfg(avx512)]
    #[inline(always)]
    unsafe fn load_integers(self, from: *const i32) -> IntegerPair {
        // SAFETY: the caller's promise.
        unsafe { self.load_bytes(from.cast()) }
    }

    #[cfg(avx512)]
    #[inline(always)]
    fn add_integers(self, a: IntegerPair, b: IntegerPair) -> IntegerPair {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe { IntegerPair(_mm256_add_epi32(a.0, b.0), _mm256_add_epi32(a.1, b.1)) }
    }

    #[inline(always)]
    fn sub_integers(self, a: IntegerPair, b: IntegerPair) -> IntegerPair {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe { IntegerPair(_mm256_sub_epi32(a.0, b.0), _mm256_sub_epi32(a.1, b.1)) }
    }

    #[inline(always)]
    fn shift_integers<const N: u32>(self, x: IntegerPair) -> IntegerPair {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe {
            let count = _mm_cvtsi32_si128(N as i32);
            IntegerPair(_mm256_sll_epi32(x.0, count), _mm256_sll_epi32(x.1, count))
        }
    }

    #[inline(always)]
    fn to_floats(self, x: IntegerPair) -> Pair {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe { Pair(_mm256_cvtepi32_ps(x.0), _mm256_cvtepi32_ps(x.1)) }
    }

    /// Two products of at most (2^bits - 1) · 127 are added at a time, and must stay below 2^15.
    #[inline(always)]
    fn capacity(bits: usize) -> usize {
        match bits {
            4 => 8,
            5 => 4,
            6 => 2,
            _ => 1,
        }
    }

    #[inline(always)]
    fn open(self, _sums: IntegerPair) -> IntegerPair {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe { IntegerPair(_mm256_setzero_si256(), _mm256_setzero_si256()) }
    }

    #[inline(always)]
    fn dot(self, partial: IntegerPair, codes: IntegerPair, values: IntegerPair) -> IntegerPair {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe {
            let low = _mm256_maddubs_epi16(codes.0, values.0);
            let high = _mm256_maddubs_epi16(codes.1, values.1);
            IntegerPair(_mm256_add_epi16(partial.0, low), _mm256_add_epi16(partial.1, high))
        }
    }

    #[inline(always)]
    fn dot_bytes(self, partial: IntegerPair, codes: IntegerPair, values: IntegerPair) -> IntegerPair {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe {
            let offset = _mm256_set1_epi8(-128);
            let (low, high) = (_mm256_xor_si256(codes.0, offset), _mm256_xor_si256(codes.1, offset));
            let low = _mm256_maddubs_epi16(_mm256_abs_epi8(low), _mm256_sign_epi8(values.0, low));
            let high = _mm256_maddubs_epi16(_mm256_abs_epi8(high), _mm256_sign_epi8(values.1, high));
            IntegerPair(_mm256_add_epi16(partial.0, low), _mm256_add_epi16(partial.1, high))
        }
    }

    #[inline(always)]
    fn close(self, sums: IntegerPair, partial: IntegerPair) -> IntegerPair {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe {
            let ones = _mm256_set1_epi16(1);
            let (low, high) = (_mm256_madd_epi16(partial.0, ones), _mm256_madd_epi16(partial.1, ones));
            IntegerPair(_mm256_add_epi32(sums.0, low), _mm256_add_epi32(sums.1, high))
        }
    }

    #[inline(always)]
    fn even_bf16(self, pairs: IntegerPair) -> Pair {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe {
            let (low, high) = (_mm256_slli_epi32::<16>(pairs.0), _mm256_slli_epi32::<16>(pairs.1));
            Pair(_mm256_castsi256_ps(low), _mm256_castsi256_ps(high))
        }
    }

    #[inline(always)]
    fn odd_bf16(self, pairs: IntegerPair) -> Pair {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe {
            let mask = _mm256_set1_epi32(-65_536);
            let (low, high) = (_mm256_and_si256(pairs.0, mask), _mm256_and_si256(pairs.1, mask));
            Pair(_mm256_castsi256_ps(low), _mm256_castsi256_ps(high))
        }
    }
}
