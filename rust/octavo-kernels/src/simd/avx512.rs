//! AVX-512: one register a vector.
#![expect(clippy::incompatible_msrv, reason = "build.rs leaves this file out where the compiler lacks the intrinsics")]

use std::arch::x86_64::*;

use super::amx::Amx;
use super::avx2::{half_sums, largest8, sum8};
use super::{Kernel, Simd};

/// The proof that this machine has AVX-512 F, BW, DQ, VL and VNNI.
#[derive(Clone, Copy)]
pub(crate) struct Avx512 {
    /// And AVX-512 BF16.
    bf16: bool,
    /// And AMX.
    tiles: Option<Amx>,
}

impl Avx512 {
    /// # Safety
    /// The machine has AVX-512 F, BW, DQ, VL and VNNI: `Isa::Avx512.is_available()`.
    pub(crate) unsafe fn assume() -> Self {
        Self { bf16: false, tiles: None }
    }

    /// # Safety
    /// And AVX-512 BF16: `Isa::Avx512Bf16.is_available()`.
    pub(crate) unsafe fn assume_bf16() -> Self {
        Self { bf16: true, tiles: None }
    }

    /// # Safety
    /// And AMX: `Isa::Amx.is_available()`.
    pub(crate) unsafe fn assume_tiles() -> Self {
        // SAFETY: the caller's promise.
        Self { bf16: true, tiles: Some(unsafe { Amx::assume() }) }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn enter<K: Kernel>(simd: Avx512, kernel: K) -> K::Output {
    kernel.run(simd)
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c")]
fn enter_bf16<K: Kernel>(simd: Avx512, kernel: K) -> K::Output {
    kernel.run(simd)
}

impl Simd for Avx512 {
    type Vector = __m512;
    type Bytes = __m512i;
    type Integers = __m512i;
    type Partial = __m512i;

    const ACCUMULATORS: usize = 24;
    const TOKENS: usize = 12;
    const UNSIGNED_CODES: bool = true;

    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe { enter(self, kernel) }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m512 {
        // SAFETY: the caller's promise, and `self` exists, so the machine has the instructions.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, x: __m512) {
        // SAFETY: the caller's promise, and `self` exists, so the machine has the instructions.
        unsafe { _mm512_storeu_ps(to, x) }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, from: *const half::bf16) -> __m512 {
        // SAFETY: the caller's promise, and `self` exists, so the machine has the instructions.
        unsafe {
            let raw = _mm256_loadu_si256(from.cast());
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(raw)))
        }
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const half::f16) -> __m512 {
        // SAFETY: the caller's promise, and `self` exists, so the machine has the instructions.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }

    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut half::bf16, x: __m512) {
        // SAFETY: the caller's promise, and `self` exists, so the machine has the instructions.
        unsafe {
            let bits = _mm512_castps_si512(x);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
            let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(1 << 22));
            let bits = _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x), quiet);
            _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(bits)));
        }
    }

    #[inline(always)]
    unsafe fn store_f16(self, to: *mut half::f16, x: __m512) {
        // SAFETY: the caller's promise, and `self` exists, so the machine has the instructions.
        unsafe { _mm256_storeu_si256(to.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x)) }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe { _mm512_div_ps(a, b) }
    }

    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe { _mm512_min_ps(a, b) }
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn round(self, x: __m512) -> __m512 {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x) }
    }

    #[inline(always)]
    fn power_of_two(self, exponent: __m512) -> __m512 {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe {
            let biased = _mm512_add_epi32(_mm512_cvtps_epi32(exponent), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
        }
    }

    #[inline(always)]
    fn zero_below(self, x: __m512, limit: __m512, value: __m512) -> __m512 {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe { _mm512_maskz_mov_ps(!_mm512_cmp_ps_mask::<_CMP_LT_OQ>(x, limit), value) }
    }

    #[inline(always)]
    fn at_least(self, a: __m512, b: __m512) -> u32 {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe { u32::from(_mm512_cmp_ps_mask::<_CMP_GE_OQ>(a, b)) }
    }

    #[inline(always)]
    fn greater(self, a: __m512, b: __m512) -> u32 {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe { u32::from(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b)) }
    }

    #[inline(always)]
    fn sum(self, x: __m512) -> f32 {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe { sum8(_mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x))) }
    }

    #[inline(always)]
    fn largest(self, x: __m512) -> f32 {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe { largest8(_mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x))) }
    }

    #[inline(always)]
    unsafe fn load_u8(self, from: *const u8) -> __m512 {
        // SAFETY: the caller's promise, and `self` exists, so the machine has the instructions.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast()))) }
    }

    #[inline(always)]
    unsafe fn load_i8(self, from: *const i8) -> __m512 {
        // SAFETY: the caller's promise, and `self` exists, so the machine has the instructions.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))) }
    }

    #[inline(always)]
    unsafe fn store_i8(self, to: *mut i8, x: __m512) {
        // SAFETY: the caller's promise, and `self` exists, so the machine has the instructions.
        unsafe { _mm_storeu_si128(to.cast(), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(x))) }
    }

    #[inline(always)]
    unsafe fn store_rounded_i8(self, to: *mut i8, x: [__m512; 2]) -> [i32; 2] {
        // SAFETY: the caller's promise, and `self` exists, so the machine has the instructions.
        unsafe {
            let low = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x[0]));
            let high = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x[1]));
            let bytes = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(low), high);
            _mm256_storeu_si256(to.cast(), bytes);
            half_sums(_mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), bytes))
        }
    }

    #[inline(always)]
    fn abs(self, x: __m512) -> __m512 {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe { _mm512_abs_ps(x) }
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
    unsafe fn load_bytes(self, from: *const u8) -> __m512i {
        // SAFETY: the caller's promise, and `self` exists, so the machine has the instructions.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut u8, x: __m512i) {
        // SAFETY: the caller's promise, and `self` exists, so the machine has the instructions.
        unsafe { _mm512_storeu_si512(to.cast(), x) }
    }

    #[inline(always)]
    unsafe fn splat_four(self, from: *const i8) -> __m512i {
        // SAFETY: the caller's promise, and `self` exists, so the machine has the instructions.
        unsafe { _mm512_set1_epi32(from.cast::<i32>().read_unaligned()) }
    }

    #[inline(always)]
    fn and_each(self, x: __m512i, mask: u8) -> __m512i {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe { _mm512_and_si512(x, _mm512_set1_epi8(mask as i8)) }
    }

    #[inline(always)]
    fn or(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe { _mm512_or_si512(a, b) }
    }

    #[inline(always)]
    fn shift_left<const N: u32>(self, x: __m512i) -> __m512i {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe { _mm512_slli_epi32::<N>(x) }
    }

    #[inline(always)]
    fn shift_right<const N: u32>(self, x: __m512i) -> __m512i {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe { _mm512_srli_epi32::<N>(x) }
    }

    #[inline(always)]
    fn zero_integers(self) -> __m512i {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    unsafe fn splat_integer_at(self, from: *const i32) -> __m512i {
        // SAFETY: the caller's promise, and `self` exists, so the machine has the instructions.
        unsafe { _mm512_set1_epi32(*from) }
    }

    #[inline(always)]
    unsafe fn load_integers(self, from: *const i32) -> __m512i {
        // SAFETY: the caller's promise, and `self` exists, so the machine has the instructions.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    fn add_integers(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe { _mm512_add_epi32(a, b) }
    }

    #[inline(always)]
    fn sub_integers(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe { _mm512_sub_epi32(a, b) }
    }

    #[inline(always)]
    fn shift_integers<const N: u32>(self, x: __m512i) -> __m512i {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe { _mm512_slli_epi32::<N>(x) }
    }

    #[inline(always)]
    fn to_floats(self, x: __m512i) -> __m512 {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe { _mm512_cvtepi32_ps(x) }
    }

    #[inline(always)]
    fn capacity(_bits: usize) -> usize {
        4
    }

    #[inline(always)]
    fn open(self, sums: __m512i) -> __m512i {
        sums
    }

    #[inline(always)]
    fn dot(self, partial: __m512i, codes: __m512i, values: __m512i) -> __m512i {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe { _mm512_dpbusd_epi32(partial, codes, values) }
    }

    #[inline(always)]
    fn dot_bytes(self, partial: __m512i, codes: __m512i, values: __m512i) -> __m512i {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe { _mm512_dpbusd_epi32(partial, codes, values) }
    }

    #[inline(always)]
    fn close(self, _sums: __m512i, partial: __m512i) -> __m512i {
        partial
    }

    #[inline(always)]
    fn even_bf16(self, pairs: __m512i) -> __m512 {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)) }
    }

    #[inline(always)]
    fn odd_bf16(self, pairs: __m512i) -> __m512 {
        // SAFETY: `self` exists, so the machine has the instructions.
        unsafe { _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(-65_536))) }
    }

    #[inline(always)]
    fn dots_bf16(self) -> bool {
        self.bf16
    }

    #[inline(always)]
    fn tiles(self) -> Option<Amx> {
        self.tiles
    }

    #[inline(always)]
    fn call_bf16<K: Kernel>(self, kernel: K) -> K::Output {
        assert!(self.bf16);
        // SAFETY: `self` exists, so the machine has the instructions, and it says that there is BF16.
        unsafe { enter_bf16(self, kernel) }
    }

    #[inline(always)]
    fn dot_bf16(self, a: __m512i, b: __m512i, c: __m512) -> __m512 {
        debug_assert!(self.bf16);
        // SAFETY: kernels run in `call_bf16`. The types hold the same bits.
        unsafe {
            _mm512_dpbf16_ps(
                c,
                std::mem::transmute::<__m512i, __m512bh>(a),
                std::mem::transmute::<__m512i, __m512bh>(b),
            )
        }
    }

    #[inline(always)]
    unsafe fn round_bf16(self, from: *const f32, to: *mut half::bf16) {
        debug_assert!(self.bf16);
        // SAFETY: the caller's promise, and kernels run in `call_bf16`.
        unsafe {
            let rounded = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(from.add(16)), _mm512_loadu_ps(from));
            to.cast::<__m512bh>().write_unaligned(rounded);
        }
    }
}
