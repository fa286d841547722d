//! Sixteen floats at a time, on any instruction set.
//!
//! A kernel is written once, as a `Kernel` generic over `Simd`, and compiled for each instruction set: `CpuKernels::run`
//! enters it through a function which has the set enabled, and everything below is inlined into that function. Hence
//! `#[inline(always)]` on all of it, and no closures around vector code, as a closure is a function of its own.
//!
//! Every set works in the same 16 lanes (one AVX-512 register, two of AVX2, four of NEON) and reduces them in the same
//! order, so these three give the same bits. The portable code has no fused multiply-add and differs in rounding.

pub(crate) mod portable;

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;

#[cfg(avx512)]
pub(crate) mod avx512;

#[cfg(avx512)]
pub(crate) mod amx;

#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;

/// Lanes of a vector.
pub(crate) const LANES: usize = 16;

/// A computation that can be compiled for each instruction set.
pub(crate) trait Kernel {
    type Output;

    /// Implementations are `#[inline(always)]`.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// One instruction set. A value is the proof that the machine has it, so the arithmetic is safe to call.
///
/// `min` and `max` return their second argument when either is NaN, as x86 does.
pub(crate) trait Simd: Copy {
    type Vector: Copy;
    /// 64 bytes: 4 neighbours for each lane.
    type Bytes: Copy;
    /// An i32 a lane.
    type Integers: Copy;
    /// Sums of products of bytes, in whatever is quick; `capacity` says how many.
    type Partial: Copy;

    /// Vectors that a matrix kernel can hold as accumulators beside its operands.
    const ACCUMULATORS: usize;

    /// Tokens of an integer tile: an integer and a float vector each. On AVX2 the third would spill registers, which
    /// costs more than it saves.
    const TOKENS: usize;

    /// `dot_bytes` multiplies by the codes as they are; otherwise by code - 128.
    const UNSIGNED_CODES: bool;

    /// Runs `kernel` in a function of its own that has this instruction set enabled.
    fn call<K: Kernel>(self, kernel: K) -> K::Output;

    fn splat(self, x: f32) -> Self::Vector;
    /// # Safety
    /// 16 floats are readable at `from`.
    unsafe fn load(self, from: *const f32) -> Self::Vector;
    /// # Safety
    /// 16 floats are writable at `to`.
    unsafe fn store(self, to: *mut f32, x: Self::Vector);
    /// # Safety
    /// 16 elements are readable at `from`.
    unsafe fn load_bf16(self, from: *const half::bf16) -> Self::Vector;
    /// # Safety
    /// 16 elements are readable at `from`.
    unsafe fn load_f16(self, from: *const half::f16) -> Self::Vector;

    /// Stores the lanes rounded to bfloat16.
    ///
    /// # Safety
    /// 16 elements are writable at `to`.
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut half::bf16, x: Self::Vector) {
        // SAFETY: the caller's promise.
        unsafe { store_rounded(self, to, x, half::bf16::from_f32) };
    }
    /// Stores the lanes rounded to float16.
    ///
    /// # Safety
    /// 16 elements are writable at `to`.
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut half::f16, x: Self::Vector) {
        // SAFETY: the caller's promise.
        unsafe { store_rounded(self, to, x, half::f16::from_f32) };
    }

    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn div(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn min(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    #[inline(always)]
    fn abs(self, x: Self::Vector) -> Self::Vector {
        self.max(x, self.sub(self.splat(0.0), x))
    }
    /// a · b + c
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// To the nearest integer, ties to even.
    fn round(self, x: Self::Vector) -> Self::Vector;
    /// 2 to the power of an integral exponent from -126 to 128; 128 gives infinity.
    fn power_of_two(self, exponent: Self::Vector) -> Self::Vector;
    /// 0 where x < limit, else `value`.
    fn zero_below(self, x: Self::Vector, limit: Self::Vector, value: Self::Vector) -> Self::Vector;
    /// A bit for each lane, lane 0 lowest: a >= b. False for NaN.
    fn at_least(self, a: Self::Vector, b: Self::Vector) -> u32;
    /// A bit for each lane, lane 0 lowest: a > b. False for NaN.
    fn greater(self, a: Self::Vector, b: Self::Vector) -> u32;
    /// The sum of the lanes: halves onto each other, four times.
    fn sum(self, x: Self::Vector) -> f32;
    /// The largest lane.
    fn largest(self, x: Self::Vector) -> f32;

    /// # Safety
    /// 16 bytes are readable at `from`.
    unsafe fn load_u8(self, from: *const u8) -> Self::Vector;
    /// # Safety
    /// 16 bytes are readable at `from`.
    unsafe fn load_i8(self, from: *const i8) -> Self::Vector;
    /// Stores integral lanes from -128 to 127 as bytes.
    ///
    /// # Safety
    /// 16 bytes are writable at `to`.
    unsafe fn store_i8(self, to: *mut i8, x: Self::Vector);
    /// Stores the lanes of both, from -128 to 127, rounded as `round` does, and returns the sum of each vector's.
    ///
    /// # Safety
    /// 32 bytes are writable at `to`.
    #[inline(always)]
    unsafe fn store_rounded_i8(self, to: *mut i8, x: [Self::Vector; 2]) -> [i32; 2] {
        let (first, second) = (self.round(x[0]), self.round(x[1]));
        // SAFETY: the caller's promise.
        unsafe {
            self.store_i8(to, first);
            self.store_i8(to.add(LANES), second);
        }
        [self.sum(first) as i32, self.sum(second) as i32]
    }

    /// Asks for a cache line, which need not exist.
    fn prefetch(self, from: *const u8);
    /// The same into the second level alone, for what is needed later.
    #[inline(always)]
    fn prefetch_far(self, _from: *const u8) {}

    /// # Safety
    /// 64 bytes are readable at `from`.
    unsafe fn load_bytes(self, from: *const u8) -> Self::Bytes;
    /// The same 4 bytes for every lane.
    ///
    /// # Safety
    /// 4 bytes are readable at `from`.
    unsafe fn splat_four(self, from: *const i8) -> Self::Bytes;
    fn and_each(self, x: Self::Bytes, mask: u8) -> Self::Bytes;
    fn or(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// Shifts lanes, so that bits come over from neighbouring bytes.
    fn shift_left<const N: u32>(self, x: Self::Bytes) -> Self::Bytes;
    fn shift_right<const N: u32>(self, x: Self::Bytes) -> Self::Bytes;

    /// # Safety
    /// 64 bytes are writable at `to`.
    #[cfg(avx512)]
    unsafe fn store_bytes(self, to: *mut u8, x: Self::Bytes);

    fn zero_integers(self) -> Self::Integers;
    /// # Safety
    /// 16 integers are readable at `from`.
    #[cfg(avx512)]
    unsafe fn load_integers(self, from: *const i32) -> Self::Integers;
    /// # Safety
    /// `from` is readable.
    unsafe fn splat_integer_at(self, from: *const i32) -> Self::Integers;
    #[cfg(avx512)]
    fn add_integers(self, a: Self::Integers, b: Self::Integers) -> Self::Integers;
    fn sub_integers(self, a: Self::Integers, b: Self::Integers) -> Self::Integers;
    /// Shifted left, as multiplied by 2 to the power of N.
    fn shift_integers<const N: u32>(self, x: Self::Integers) -> Self::Integers;
    fn to_floats(self, x: Self::Integers) -> Self::Vector;
    /// `dot`s of codes of `bits` bits that a partial sum has room for: a divisor of 4 for 6 bits, of 8 for others.
    fn capacity(bits: usize) -> usize;
    /// A partial sum that begins with `sums`, or with zero: see `close`.
    fn open(self, sums: Self::Integers) -> Self::Partial;
    /// Adds to each lane the products of its 4 unsigned codes, of at most 7 bits, with 4 signed values.
    fn dot(self, partial: Self::Partial, codes: Self::Bytes, values: Self::Bytes) -> Self::Partial;
    /// `dot` of codes of 8 bits with values above -128: see `UNSIGNED_CODES`.
    fn dot_bytes(self, partial: Self::Partial, codes: Self::Bytes, values: Self::Bytes) -> Self::Partial;
    /// `sums`, which `open` was given, and what was added since.
    fn close(self, sums: Self::Integers, partial: Self::Partial) -> Self::Integers;

    /// The even elements of pairs of bfloat16.
    fn even_bf16(self, pairs: Self::Bytes) -> Self::Vector;
    /// The odd elements of pairs of bfloat16.
    fn odd_bf16(self, pairs: Self::Bytes) -> Self::Vector;
    /// `dot_bf16` is an instruction of this machine, for kernels that `call_bf16` runs.
    #[inline(always)]
    fn dots_bf16(self) -> bool {
        false
    }
    /// The tiles of machines that have them, for kernels that `call_bf16` runs.
    #[cfg(avx512)]
    #[inline(always)]
    fn tiles(self) -> Option<amx::Amx> {
        None
    }
    /// `call`, with `dot_bf16`'s instruction enabled.
    #[inline(always)]
    fn call_bf16<K: Kernel>(self, kernel: K) -> K::Output {
        self.call(kernel)
    }
    /// Adds the products of a lane's pairs to it.
    #[inline(always)]
    fn dot_bf16(self, a: Self::Bytes, b: Self::Bytes, c: Self::Vector) -> Self::Vector {
        let odd = self.mul_add(self.odd_bf16(a), self.odd_bf16(b), c);
        self.mul_add(self.even_bf16(a), self.even_bf16(b), odd)
    }
    /// Rounds 32 floats to the nearest bfloat16.
    ///
    /// # Safety
    /// 32 elements are readable at `from`, and writable at `to`.
    #[inline(always)]
    unsafe fn round_bf16(self, from: *const f32, to: *mut half::bf16) {
        for index in 0..2 * LANES {
            // SAFETY: the caller's promise.
            unsafe { to.add(index).write(half::bf16::from_f32(*from.add(index))) };
        }
    }

    /// e to the x, to 2 units in the last place; 0 below -87.3, infinity above 88.4.
    ///
    /// The polynomial is that of `expf` in the Cephes library.
    #[inline(always)]
    fn exp(self, x: Self::Vector) -> Self::Vector {
        const LOWEST: f32 = -87.336_54;
        const HIGHEST: f32 = 88.722_84;
        let clamped = self.min(self.splat(HIGHEST), self.max(self.splat(LOWEST), x));
        let exponent = self.round(self.mul(clamped, self.splat(std::f32::consts::LOG2_E)));
        let rest = self.mul_add(exponent, self.splat(-0.693_359_4), clamped);
        let rest = self.mul_add(exponent, self.splat(2.121_944_4e-4), rest);
        let mut polynomial = self.splat(1.987_569_1e-4);
        for coefficient in [1.398_199_9e-3_f32, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
            polynomial = self.mul_add(polynomial, rest, self.splat(coefficient));
        }
        let mantissa = self.mul_add(polynomial, self.mul(rest, rest), self.add(rest, self.splat(1.0)));
        self.zero_below(x, self.splat(LOWEST), self.mul(mantissa, self.power_of_two(exponent)))
    }

    /// 1 / (1 + e to the -x)
    #[inline(always)]
    fn sigmoid(self, x: Self::Vector) -> Self::Vector {
        let one = self.splat(1.0);
        self.div(one, self.add(one, self.exp(self.sub(self.splat(0.0), x))))
    }

    #[inline(always)]
    fn tanh(self, x: Self::Vector) -> Self::Vector {
        let doubled = self.sigmoid(self.add(x, x));
        self.sub(self.add(doubled, doubled), self.splat(1.0))
    }
}

/// # Safety
/// 16 elements are writable at `to`.
#[inline(always)]
unsafe fn store_rounded<S: Simd, E>(simd: S, to: *mut E, x: S::Vector, round: impl Fn(f32) -> E) {
    let mut lanes = [0.0; LANES];
    // SAFETY: `lanes` has 16 floats.
    unsafe { simd.store(lanes.as_mut_ptr(), x) };
    for (index, &lane) in lanes.iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe { to.add(index).write(round(lane)) };
    }
}

/// Asks for the cache line at `address`; any address will do.
#[inline(always)]
pub(crate) fn prefetch(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of x86-64, and a prefetch of no valid address does nothing.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// An element type that is widened to float32 when loaded.
pub(crate) trait Element: Copy + 'static {
    /// # Safety
    /// 16 elements are readable at `from`.
    unsafe fn load<S: Simd>(simd: S, from: *const Self) -> S::Vector;
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const Self) -> S::Vector {
        // SAFETY: the caller's promise.
        unsafe { simd.load(from) }
    }
}

impl Element for half::bf16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const Self) -> S::Vector {
        // SAFETY: the caller's promise.
        unsafe { simd.load_bf16(from) }
    }
}

impl Element for half::f16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const Self) -> S::Vector {
        // SAFETY: the caller's promise.
        unsafe { simd.load_f16(from) }
    }
}

impl Element for i8 {
    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const Self) -> S::Vector {
        // SAFETY: the caller's promise.
        unsafe { simd.load_i8(from) }
    }
}

/// The first `count` < 16 floats at `from`, and zeros.
///
/// # Safety
/// `count` floats are readable at `from`.
#[inline(always)]
pub(crate) unsafe fn load_first<S: Simd>(simd: S, from: *const f32, count: usize) -> S::Vector {
    let mut buffer = [0.0; LANES];
    // SAFETY: the caller's promise, and `buffer` has 16 floats.
    unsafe {
        std::ptr::copy_nonoverlapping(from, buffer.as_mut_ptr(), count.min(LANES));
        simd.load(buffer.as_ptr())
    }
}

/// Stores the first `count` < 16 lanes.
///
/// # Safety
/// `count` floats are writable at `to`.
#[inline(always)]
pub(crate) unsafe fn store_first<S: Simd>(simd: S, to: *mut f32, x: S::Vector, count: usize) {
    let mut buffer = [0.0; LANES];
    // SAFETY: the caller's promise, and `buffer` has 16 floats.
    unsafe {
        simd.store(buffer.as_mut_ptr(), x);
        std::ptr::copy_nonoverlapping(buffer.as_ptr(), to, count.min(LANES));
    }
}

/// Sixteen floats of `from` at `index`, or what is left of them and zeros.
#[inline(always)]
pub(crate) fn load_slice<S: Simd>(simd: S, from: &[f32], index: usize) -> S::Vector {
    let rest = &from[index..];
    // SAFETY: `rest` has at least as many floats as are read.
    unsafe { if rest.len() >= LANES { simd.load(rest.as_ptr()) } else { load_first(simd, rest.as_ptr(), rest.len()) } }
}

/// Stores as many lanes as `to` has room for at `index`.
#[inline(always)]
pub(crate) fn store_slice<S: Simd>(simd: S, to: &mut [f32], index: usize, x: S::Vector) {
    let rest = &mut to[index..];
    // SAFETY: `rest` has at least as many floats as are written.
    unsafe {
        if rest.len() >= LANES {
            simd.store(rest.as_mut_ptr(), x);
        } else {
            store_first(simd, rest.as_mut_ptr(), x, rest.len());
        }
    }
}
