// Floats as integers of the same order.
//
//   key_of, number_of   there and back
//   ranked              a key and an index as one number
#pragma once
#include "primitives.cuh"

// Both zeros are one number. NaN is below everything, with minus infinity.
OCTAVO_DEVICE uint32 key_of(float number) {
  const uint32 bits = __float_as_uint(number == number ? number + 0.f : -INFINITY);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

OCTAVO_DEVICE float number_of(uint32 key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

// The key of the lowest finite float; that of minus infinity is one less.
constexpr uint32 LOWEST_KEY = 0x00800000u;

// The larger key is larger, and of equal keys the lower index. Never 0 for a key of a number.
OCTAVO_DEVICE uint64 ranked(uint32 key, int index) { return static_cast<uint64>(key) << 32 | (0xffffffffu - index); }
OCTAVO_DEVICE uint32 key_of_ranked(uint64 best) { return static_cast<uint32>(best >> 32); }
OCTAVO_DEVICE int index_of_ranked(uint64 best) { return static_cast<int>(0xffffffffu - static_cast<uint32>(best)); }

// Of all lanes.
OCTAVO_DEVICE uint64 best_of_warp(uint64 best) {
#pragma unroll
  for (int distance = WARP_SIZE / 2; distance > 0; distance /= 2)
    best = max(best, __shfl_xor_sync(ALL_LANES, best, distance));
  return best;
}
