// The device half of primitives.cuh, which says what each function does: all inline PTX of octavo, and nothing else.
#pragma once

#define INFINITY __int_as_float(0x7f800000)

#define OCTAVO_SHARED(name) extern __shared__ __align__(128) uint8 name[]

// Publishes how `name` is launched, for who loads the module: threads of a block and bytes of shared memory.
#define OCTAVO_KERNEL(name, threads, shared_bytes) \
  extern "C" __device__ __attribute__((used)) uint32 octavo_shape_##name[2] = {threads, shared_bytes};

// Publishes a number that who launches kernels needs.
#define OCTAVO_CONSTANT(name, value) extern "C" __device__ __attribute__((used)) uint32 octavo_constant_##name = value;

OCTAVO_DEVICE uint32 shared_address(const void* pointer) {
  return static_cast<uint32>(__cvta_generic_to_shared(pointer));
}

// 16 bytes bypass L1, for they are read once; smaller copies cannot.
template <int BYTES>
OCTAVO_DEVICE void copy_async(void* shared, const void* global, bool valid) {
  const int bytes_read = valid ? BYTES : 0;
  if constexpr (BYTES == 16)
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;"
                 ::"r"(shared_address(shared)), "l"(global), "r"(bytes_read) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;"
                 ::"r"(shared_address(shared)), "l"(global), "n"(BYTES), "r"(bytes_read) : "memory");
}

OCTAVO_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int NUM_LATEST>
OCTAVO_DEVICE void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(NUM_LATEST) : "memory");
}

OCTAVO_DEVICE void load_matrices(uint32 (&registers)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
               : "r"(shared_address(row)) : "memory");
}

OCTAVO_DEVICE void load_matrices(uint32 (&registers)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(registers[0]), "=r"(registers[1]) : "r"(shared_address(row)) : "memory");
}

OCTAVO_DEVICE void load_matrices_transposed(uint32 (&registers)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
               : "r"(shared_address(row)) : "memory");
}

OCTAVO_DEVICE void load_matrices_transposed(uint32 (&registers)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(registers[0]), "=r"(registers[1]) : "r"(shared_address(row)) : "memory");
}

OCTAVO_DEVICE void mma_bf16(float (&sums)[4], const uint32 (&a)[4], uint32 b0, uint32 b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

OCTAVO_DEVICE void mma_fp16(float (&sums)[4], const uint32 (&a)[4], uint32 b0, uint32 b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

OCTAVO_DEVICE uint32 fma_bf16(uint32 a, uint32 b, uint32 c) {
  uint32 pair;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(pair) : "r"(a), "r"(b), "r"(c));
  return pair;
}

OCTAVO_DEVICE uint32 fma_fp16(uint32 a, uint32 b, uint32 c) {
  uint32 pair;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(pair) : "r"(a), "r"(b), "r"(c));
  return pair;
}

OCTAVO_DEVICE uint32 pack_bf16(float low, float high) {
  uint32 pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

OCTAVO_DEVICE uint32 pack_fp16(float low, float high) {
  uint32 pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

OCTAVO_DEVICE float fp16_low(uint32 pair) {
  float value;
  asm("{ .reg .b16 low, high; mov.b32 {low, high}, %1; cvt.f32.f16 %0, low; }" : "=f"(value) : "r"(pair));
  return value;
}

OCTAVO_DEVICE float fp16_high(uint32 pair) {
  float value;
  asm("{ .reg .b16 low, high; mov.b32 {low, high}, %1; cvt.f32.f16 %0, high; }" : "=f"(value) : "r"(pair));
  return value;
}

OCTAVO_DEVICE uint32 fp8_to_fp16(uint16 pair) {
  uint32 result;
#if __CUDA_ARCH__ >= 890
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(result) : "h"(pair));
#else
  constexpr uint32 TWICE_256 = 0x5c005c00u;
  asm("mul.f16x2 %0, %1, %2;" : "=r"(result) : "r"(fp8_bits_to_fp16_bits(pair)), "r"(TWICE_256));
#endif
  return result;
}

OCTAVO_DEVICE uint16 pack_fp8(float low, float high) {
#if __CUDA_ARCH__ >= 890
  uint16 pair;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(high), "f"(low));
  return pair;
#else
  return float_to_fp8_bits(low) | float_to_fp8_bits(high) << 8;
#endif
}

OCTAVO_DEVICE float exp2_approximate(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

OCTAVO_DEVICE float log2_approximate(float x) {
  float result;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

OCTAVO_DEVICE float reciprocal_approximate(float x) {
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

OCTAVO_DEVICE float reciprocal_sqrt_approximate(float x) {
  float result;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

OCTAVO_DEVICE void barrier_wait(int number, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

OCTAVO_DEVICE void barrier_arrive(int number, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(number), "r"(threads) : "memory");
}
