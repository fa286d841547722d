//! Plain Rust, which the compiler turns into whatever vectors the target has at least.

use super::{Kernel, LANES, Simd};

#[derive(Clone, Copy)]
pub(crate) struct Portable;

type Vector = [f32; LANES];

#[inline(always)]
fn zip(a: Vector, b: Vector, operation: impl Fn(f32, f32) -> f32) -> Vector {
    let mut result = a;
    for lane in 0..LANES {
        result[lane] = operation(a[lane], b[lane]);
    }
    result
}

#[inline(always)]
fn fold(mut x: Vector, operation: impl Fn(f32, f32) -> f32) -> f32 {
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            x[lane] = operation(x[lane], x[lane + half]);
        }
    }
    x[0]
}

#[inline(always)]
fn bits(a: Vector, b: Vector, holds: impl Fn(f32, f32) -> bool) -> u32 {
    let mut mask = 0;
    for lane in 0..LANES {
        mask |= u32::from(holds(a[lane], b[lane])) << lane;
    }
    mask
}

impl Simd for Portable {
    type Vector = Vector;
    type Bytes = [u32; LANES];
    type Integers = [i32; LANES];
    type Partial = [i32; LANES];

    const ACCUMULATORS: usize = 3;
    const TOKENS: usize = 4;
    const UNSIGNED_CODES: bool = true;

    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Vector {
        [x; LANES]
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Vector {
        // SAFETY: the caller's promise; an unaligned read.
        unsafe { from.cast::<Vector>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, x: Vector) {
        // SAFETY: the caller's promise; an unaligned write.
        unsafe { to.cast::<Vector>().write_unaligned(x) }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, from: *const half::bf16) -> Vector {
        // SAFETY: the caller's promise; an unaligned read.
        let raw = unsafe { from.cast::<[u16; LANES]>().read_unaligned() };
        let mut result = [0.0; LANES];
        for lane in 0..LANES {
            result[lane] = f32::from_bits(u32::from(raw[lane]) << 16);
        }
        result
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const half::f16) -> Vector {
        // SAFETY: the caller's promise; an unaligned read. `f16` is a `u16` by representation.
        let raw = unsafe { from.cast::<[half::f16; LANES]>().read_unaligned() };
        let mut result = [0.0; LANES];
        for lane in 0..LANES {
            result[lane] = raw[lane].to_f32();
        }
        result
    }

    #[inline(always)]
    fn add(self, a: Vector, b: Vector) -> Vector {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: Vector, b: Vector) -> Vector {
        zip(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: Vector, b: Vector) -> Vector {
        zip(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: Vector, b: Vector) -> Vector {
        zip(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn min(self, a: Vector, b: Vector) -> Vector {
        zip(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn max(self, a: Vector, b: Vector) -> Vector {
        zip(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn mul_add(self, a: Vector, b: Vector, c: Vector) -> Vector {
        self.add(self.mul(a, b), c)
    }

    #[inline(always)]
    fn round(self, x: Vector) -> Vector {
        // Adding 1.5 · 2^23 leaves no bits for a fraction; exact for the magnitudes below 2^22 that occur here.
        const MAGIC: f32 = 12_582_912.0;
        zip(x, x, |x, _| (x + MAGIC) - MAGIC)
    }

    #[inline(always)]
    fn power_of_two(self, exponent: Vector) -> Vector {
        zip(exponent, exponent, |exponent, _| f32::from_bits(((exponent as i32 + 127) as u32) << 23))
    }

    #[inline(always)]
    fn zero_below(self, x: Vector, limit: Vector, value: Vector) -> Vector {
        let mut result = value;
        for lane in 0..LANES {
            result[lane] = if x[lane] < limit[lane] { 0.0 } else { value[lane] };
        }
        result
    }

    #[inline(always)]
    fn at_least(self, a: Vector, b: Vector) -> u32 {
        bits(a, b, |a, b| a >= b)
    }

    #[inline(always)]
    fn greater(self, a: Vector, b: Vector) -> u32 {
        bits(a, b, |a, b| a > b)
    }

    #[inline(always)]
    fn sum(self, x: Vector) -> f32 {
        fold(x, |a, b| a + b)
    }

    #[inline(always)]
    fn largest(self, x: Vector) -> f32 {
        fold(x, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    unsafe fn load_u8(self, from: *const u8) -> Vector {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<[u8; LANES]>().read() }.map(f32::from)
    }

    #[inline(always)]
    unsafe fn load_i8(self, from: *const i8) -> Vector {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<[i8; LANES]>().read() }.map(f32::from)
    }

    #[inline(always)]
    unsafe fn store_i8(self, to: *mut i8, x: Vector) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[i8; LANES]>().write(x.map(|x| x as i8)) };
    }

    #[inline(always)]
    fn prefetch(self, _from: *const u8) {}

    #[inline(always)]
    unsafe fn load_bytes(self, from: *const u8) -> Self::Bytes {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<Self::Bytes>().read_unaligned() }
    }

    #[cfg(avx512)]
    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut u8, x: Self::Bytes) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<Self::Bytes>().write_unaligned(x) };
    }

    #[inline(always)]
    unsafe fn splat_four(self, from: *const i8) -> Self::Bytes {
        // SAFETY: the caller's promise.
        [unsafe { from.cast::<u32>().read_unaligned() }; LANES]
    }

    #[inline(always)]
    fn and_each(self, x: Self::Bytes, mask: u8) -> Self::Bytes {
        x.map(|four| four & u32::from_ne_bytes([mask; 4]))
    }

    #[inline(always)]
    fn or(self, mut a: Self::Bytes, b: Self::Bytes) -> Self::Bytes {
        for lane in 0..LANES {
            a[lane] |= b[lane];
        }
        a
    }

    #[inline(always)]
    fn shift_left<const N: u32>(self, x: Self::Bytes) -> Self::Bytes {
        x.map(|four| four << N)
    }

    #[inline(always)]
    fn shift_right<const N: u32>(self, x: Self::Bytes) -> Self::Bytes {
        x.map(|four| four >> N)
    }

    #[inline(always)]
    fn zero_integers(self) -> Self::Integers {
        [0; LANES]
    }

    #[inline(always)]
    unsafe fn splat_integer_at(self, from: *const i32) -> Self::Integers {
        // SAFETY: the caller's promise.
        [unsafe { *from }; LANES]
    }

    #[cfg(avx512)]
    #[inline(always)]
    unsafe fn load_integers(self, from: *const i32) -> Self::Integers {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<Self::Integers>().read_unaligned() }
    }

    #[cfg(avx512)]
    #[inline(always)]
    fn add_integers(self, mut a: Self::Integers, b: Self::Integers) -> Self::Integers {
        for lane in 0..LANES {
            a[lane] += b[lane];
        }
        a
    }

    #[inline(always)]
    fn sub_integers(self, mut a: Self::Integers, b: Self::Integers) -> Self::Integers {
        for lane in 0..LANES {
            a[lane] -= b[lane];
        }
        a
    }

    #[inline(always)]
    fn shift_integers<const N: u32>(self, x: Self::Integers) -> Self::Integers {
        x.map(|x| x << N)
    }

    #[inline(always)]
    fn to_floats(self, x: Self::Integers) -> Vector {
        x.map(|x| x as f32)
    }

    #[inline(always)]
    fn capacity(_bits: usize) -> usize {
        4
    }

    #[inline(always)]
    fn open(self, sums: Self::Integers) -> Self::Partial {
        sums
    }

    #[inline(always)]
    fn dot(self, mut partial: Self::Partial, codes: Self::Bytes, values: Self::Bytes) -> Self::Partial {
        for byte in 0..4 {
            for lane in 0..LANES {
                let code = (codes[lane] >> (8 * byte) & 255) as i32;
                partial[lane] += code * ((values[lane] << (24 - 8 * byte)) as i32 >> 24);
            }
        }
        partial
    }

    #[inline(always)]
    fn dot_bytes(self, partial: Self::Partial, codes: Self::Bytes, values: Self::Bytes) -> Self::Partial {
        self.dot(partial, codes, values)
    }

    #[inline(always)]
    fn close(self, _sums: Self::Integers, partial: Self::Partial) -> Self::Integers {
        partial
    }

    #[inline(always)]
    fn even_bf16(self, pairs: Self::Bytes) -> Vector {
        let mut result = [0.0; LANES];
        for lane in 0..LANES {
            result[lane] = f32::from_bits(pairs[lane] << 16);
        }
        result
    }

    #[inline(always)]
    fn odd_bf16(self, pairs: Self::Bytes) -> Vector {
        let mut result = [0.0; LANES];
        for lane in 0..LANES {
            result[lane] = f32::from_bits(pairs[lane] & 0xffff_0000);
        }
        result
    }
}
