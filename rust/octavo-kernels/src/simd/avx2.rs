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

/// # Safety
/// 8 elements are readable at `from`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn widen_bf16(from: *const half::bf16) -> __m256 {
    // SAFETY: the caller's promise.
    let raw = unsafe { _mm_loadu_si128(from.cast()) };
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(raw)))
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

impl Simd for Avx2 {
    type Vector = Pair;

    const ACCUMULATORS: usize = 6;

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
}
