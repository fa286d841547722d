// The part of CUDA C++ that our kernels use, for a host compiler: qualifiers, vector types, built-in functions.
//
// Static __shared__ arrays are missing on purpose: OCTAVO_SHARED is poisoned for every block and ends at a guard page.
#pragma once
#include <cmath>

#include "fibers.h"

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) alignas(bytes)

#define threadIdx (octavo_host::machine.current->index)
#define blockIdx (octavo_host::machine.block)
#define blockDim (octavo_host::Index{octavo_host::machine.options.block[0], octavo_host::machine.options.block[1], \
                                     octavo_host::machine.options.block[2]})
#define gridDim (octavo_host::Index{octavo_host::machine.options.grid[0], octavo_host::machine.options.grid[1], \
                                    octavo_host::machine.options.grid[2]})

#define OCTAVO_SHARED(name) uint8* const name = octavo_host::machine.shared

// Publishes the kernel as octavo_launch_NAME, and how it is launched as octavo_shape_NAME.
#define OCTAVO_KERNEL(name, threads, shared_bytes)                                                            \
  extern "C" const char* octavo_launch_##name(const octavo_host::LaunchOptions* options, void** arguments) {  \
    return octavo_host::launch(*options, [](void** each) { octavo_host::call(name, each); }, arguments);      \
  }                                                                                                           \
  extern "C" uint32 octavo_shape_##name[2];                                                                   \
  uint32 octavo_shape_##name[2] = {threads, shared_bytes};

#define OCTAVO_CONSTANT(name, value)        \
  extern "C" uint32 octavo_constant_##name; \
  uint32 octavo_constant_##name = value;

struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

using std::max;
using std::min;

inline float __uint_as_float(unsigned bits) { return __builtin_bit_cast(float, bits); }
inline float __int_as_float(int bits) { return __builtin_bit_cast(float, bits); }
inline unsigned __float_as_uint(float value) { return __builtin_bit_cast(unsigned, value); }
inline int __float_as_int(float value) { return __builtin_bit_cast(int, value); }
inline int __float2int_rn(float value) {
  return value != value ? 0 : static_cast<int>(std::nearbyint(std::clamp<double>(value, -2147483648., 2147483647.)));
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int __clz(int bits) { return bits ? __builtin_clz(bits) : 32; }
inline unsigned __umulhi(unsigned a, unsigned b) { return uint64{a} * b >> 32; }
inline uint64 __umul64hi(uint64 a, uint64 b) { return static_cast<unsigned __int128>(a) * b >> 64; }
inline float __fmul_rn(float a, float b) { return a * b; }

// Byte i of the result is the byte of b:a that nibble i of the selector names.
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const uint64 bytes = uint64{b} << 32 | a;
  unsigned result = 0;
  for (int i = 0; i < 4; i++) {
    const unsigned nibble = selector >> (4 * i) & 0xf, byte = bytes >> (8 * (nibble & 7)) & 0xff;
    result |= (nibble & 8 ? (byte & 0x80 ? 0xff : 0) : byte) << (8 * i);
  }
  return result;
}

template <class T>
T __ldg(const T* pointer) { return *pointer; }

// Blocks run one after another and fibers change places only where they wait, so plain reads and writes are atomic.
inline void __threadfence() {}
inline void __threadfence_block() {}
template <class T>
T atomicAdd(T* target, T value) { return std::exchange(*target, *target + value); }
template <class T>
T atomicMax(T* target, T value) { return std::exchange(*target, max(*target, value)); }
template <class T>
T atomicMin(T* target, T value) { return std::exchange(*target, min(*target, value)); }
template <class T>
T atomicOr(T* target, T value) { return std::exchange(*target, *target | value); }
template <class T>
T atomicExch(T* target, T value) { return std::exchange(*target, value); }
template <class T>
T atomicCAS(T* target, T expected, T value) {
  return std::exchange(*target, *target == expected ? value : *target);
}

inline void __syncthreads() { octavo_host::wait_barrier(0, 0, true); }

inline void __syncwarp(unsigned mask = ~0u) {
  octavo_host::meet<int>(mask, "__syncwarp", 0, [](auto) {});
}

namespace octavo_host {

// Each lane takes the value of lane source(lane), which must take part.
template <class T, class Source>
T shuffle(unsigned mask, const char* name, T value, Source source) {
  return meet<T>(mask, name, std::pair<T, int>{value, source(machine.current->lane())}, [=](auto lanes) {
    for (int lane = 0; lane < LANES; lane++) {
      if (!lanes.has(lane)) continue;
      const int from = lanes.given(lane).second;
      if (!lanes.has(from)) fail("%s: lane %d reads lane %d, which is not there", name, lane, from);
      lanes.taken(lane) = lanes.given(from).first;
    }
  });
}

inline unsigned ballot(unsigned mask, const char* name, bool predicate) {
  return meet<unsigned>(mask, name, predicate, [](auto lanes) {
    unsigned votes = 0;
    for (int lane = 0; lane < LANES; lane++)
      if (lanes.has(lane) && lanes.given(lane)) votes |= 1u << lane;
    for (int lane = 0; lane < LANES; lane++)
      if (lanes.has(lane)) lanes.taken(lane) = votes;
  });
}

}  // namespace octavo_host

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  return octavo_host::shuffle(mask, "__shfl_sync", value,
                              [=](int lane) { return (lane & ~(width - 1)) | (source & (width - 1)); });
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
  return octavo_host::shuffle(mask, "__shfl_xor_sync", value, [=](int lane) {
    const int source = lane ^ bits;
    return source / width <= lane / width ? source : lane;  // a later group of lanes cannot be read
  });
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, int distance, int width = 32) {
  return octavo_host::shuffle(mask, "__shfl_down_sync", value,
                              [=](int lane) { return lane % width + distance < width ? lane + distance : lane; });
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, int distance, int width = 32) {
  return octavo_host::shuffle(mask, "__shfl_up_sync", value,
                              [=](int lane) { return lane % width >= distance ? lane - distance : lane; });
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  return octavo_host::ballot(mask, "__ballot_sync", predicate);
}
inline int __any_sync(unsigned mask, int predicate) {
  return octavo_host::ballot(mask, "__any_sync", predicate) != 0;
}
inline int __all_sync(unsigned mask, int predicate) {
  return octavo_host::ballot(mask, "__all_sync", predicate) == mask;
}
