// What every kernel includes, and its only include besides our own: no CUDA header is needed, at build time or later.
//
//   types           int64, uint8 … with their bits in the name
//   OCTAVO_DEVICE   marks a device function; OCTAVO_SHARED names dynamic shared memory
//   OCTAVO_KERNEL   publishes a kernel and how it is launched; OCTAVO_CONSTANT a number
//   PTX wrappers    ptx.cuh, for the GPU, and host/ptx.h, which does the same on a CPU. Both define:
//
//     copy_async<bytes>(shared, global, valid)    starts a copy of 4, 8 or 16 bytes; of zeros unless valid
//     commit_copies()                             closes a group of copies
//     wait_for_copies<n>()                        waits for all groups of this thread but the latest n
//     load_matrices(registers, row)               ldmatrix: 2 or 4 matrices of 8 rows, of 16 bytes; lane i gives row i
//     load_matrices_transposed(registers, row)
//     mma_bf16(sums, a, b0, b1), mma_fp16         sums[16, 8] += a[16, 16] · b[16, 8], in the fragments of m16n8k16
//     fma_bf16(a, b, c), fma_fp16                 a · b + c of pairs, rounded once
//     pack_bf16(low, high), pack_fp16             two floats, rounded to nearest, in one register
//     fp16_low(pair), fp16_high                   and back; bf16_low and bf16_high are below
//     fp8_to_fp16(pair)                           two e4m3 in 16 bits to two fp16: exact
//     pack_fp8(low, high)                         two floats to e4m3, rounded to nearest, at most ±448
//     exp2_approximate(x), log2_approximate, reciprocal_approximate, reciprocal_sqrt_approximate
//     barrier_wait(number, threads)               a barrier of some of the block's warps, 1 to 15
//     barrier_arrive(number, threads)             the same, without waiting
//
// Fragments of m16n8k16: with row = lane / 4 and column = 2 · (lane mod 4), a lane holds of
//   a     [row, column], [row + 8, column], [row, column + 8], [row + 8, column + 8], each a pair along k
//   b     [column, row], [column + 8, row], each a pair along k
//   sums  [row, column], [row, column + 1], [row + 8, column], [row + 8, column + 1]
#pragma once

using uint8 = unsigned char;
using uint16 = unsigned short;
using uint32 = unsigned int;
using uint64 = unsigned long long;
using int64 = long long;

#ifdef OCTAVO_HOST
#include "host/cuda_language.h"
#endif

#define OCTAVO_DEVICE __device__ __forceinline__

constexpr uint32 ALL_LANES = 0xffffffffu;
constexpr int WARP_SIZE = 32;

OCTAVO_DEVICE float bf16_to_float(uint16 bits) { return __uint_as_float(uint32{bits} << 16); }
OCTAVO_DEVICE float bf16_low(uint32 pair) { return __uint_as_float(pair << 16); }
OCTAVO_DEVICE float bf16_high(uint32 pair) { return __uint_as_float(pair & 0xffff0000u); }

// For GPUs before sm_89. The bits of e4m3, moved to where fp16 has them, are the value divided by 2^8: subnormal values
// too. Returns that, two in a register; NaN becomes 1.875.
OCTAVO_DEVICE uint32 fp8_bits_to_fp16_bits(uint16 pair) {
  const uint32 spread = __byte_perm(pair, 0, 0x1404);  // one byte at the top of each half
  return (spread & 0x80008000u) | ((spread & 0x7f007f00u) >> 1);
}

// For GPUs before sm_89: e4m3 by the arithmetic of floats, which rounds to nearest even.
OCTAVO_DEVICE uint32 float_to_fp8_bits(float value) {
  const uint32 bits = __float_as_uint(value), sign = bits >> 24 & 0x80;
  const float magnitude = __uint_as_float(bits & 0x7fffffffu);
  if (magnitude != magnitude) return sign | 0x7f;
  if (magnitude >= 448.f) return sign | 0x7e;
  // Below 2^-6 the steps are 2^-9 wide; adding 2^14 leaves 23 - 14 = 9 bits behind the point.
  if (magnitude < 0.015625f) return sign | (__float_as_uint(magnitude + 16384.f) & 0xf);
  const uint32 magnitude_bits = bits & 0x7fffffffu;
  const uint32 rounded = magnitude_bits + 0x7ffff + (magnitude_bits >> 20 & 1);  // three bits of mantissa stay
  return sign | ((rounded >> 20) - (120 << 3));  // exponents count from 2^-7 instead of 2^-127
}

#ifdef OCTAVO_HOST
#include "host/ptx.h"
#else
#include "ptx.cuh"
#endif
