// Every wrapper of primitives.cuh, and the CUDA functions that the emulation has, on words given and words returned.
// The same source runs on a GPU and on a CPU: conformance.py says what goes in, and how closely the two must agree.
//
// A kernel is one block, and takes (input, output). It publishes how many words it reads and writes.
#include "primitives.cuh"

#define EXPERIMENT(name, threads, shared_bytes, inputs, outputs) \
  OCTAVO_KERNEL(name, threads, shared_bytes)                     \
  OCTAVO_CONSTANT(name##_inputs, inputs)                         \
  OCTAVO_CONSTANT(name##_outputs, outputs)

// ---- numbers: each of the words, as a float, with its neighbour

constexpr int NUM_WORDS = 4096;

template <class Function>
OCTAVO_DEVICE void each_pair(const uint32* input, Function function) {
  for (int i = threadIdx.x; i < NUM_WORDS; i += WARP_SIZE)
    function(i, __uint_as_float(__ldg(input + i)), __uint_as_float(input[(i + 1) % NUM_WORDS]));
}

extern "C" __global__ void pack_numbers(const uint32* input, uint32* output) {
  each_pair(input, [&](int i, float low, float high) {
    output[i] = pack_bf16(low, high);
    output[NUM_WORDS + i] = pack_fp16(low, high);
    output[2 * NUM_WORDS + i] = pack_fp8(low, high);
    output[3 * NUM_WORDS + i] = float_to_fp8_bits(low);
    output[4 * NUM_WORDS + i] = __float2int_rn(low);
    output[5 * NUM_WORDS + i] = __float_as_int(__int_as_float(__float_as_int(low) ^ 1));
  });
}
EXPERIMENT(pack_numbers, WARP_SIZE, 0, NUM_WORDS, 6 * NUM_WORDS)

// Whole numbers and halves, such that the results of pairs are exact.
extern "C" __global__ void multiply_pairs(const uint32* input, uint32* output) {
  each_pair(input, [&](int i, float x, float y) {
    output[i] = fma_bf16(pack_bf16(x, y), pack_bf16(y, 1.f), pack_bf16(4.f, x));
    output[NUM_WORDS + i] = fma_fp16(pack_fp16(x, y), pack_fp16(y, 1.f), pack_fp16(4.f, x));
    output[2 * NUM_WORDS + i] = __float_as_uint(__fmul_rn(x + 0.1f, y));
  });
}
EXPERIMENT(multiply_pairs, WARP_SIZE, 0, NUM_WORDS, 3 * NUM_WORDS)

// All bit patterns of 16 bits.
extern "C" __global__ void unpack_numbers(const uint32* input, uint32* output) {
  for (int i = threadIdx.x; i < 1 << 16; i += WARP_SIZE) {
    const uint32 pair = input[i];
    output[2 * i] = __float_as_uint(fp16_low(pair));
    output[2 * i + 1] = __float_as_uint(fp16_high(pair));
    output[(2 << 16) + i] = fp8_to_fp16(pair);
    output[(3 << 16) + i] = fp8_bits_to_fp16_bits(pair);
  }
}
EXPERIMENT(unpack_numbers, WARP_SIZE, 0, 1 << 16, 4 << 16)

extern "C" __global__ void approximate_exp2(const uint32* input, uint32* output) {
  each_pair(input, [&](int i, float x, float) { output[i] = __float_as_uint(exp2_approximate(x)); });
}
EXPERIMENT(approximate_exp2, WARP_SIZE, 0, NUM_WORDS, NUM_WORDS)

extern "C" __global__ void approximate_log2(const uint32* input, uint32* output) {
  each_pair(input, [&](int i, float x, float) { output[i] = __float_as_uint(log2_approximate(x)); });
}
EXPERIMENT(approximate_log2, WARP_SIZE, 0, NUM_WORDS, NUM_WORDS)

extern "C" __global__ void approximate_reciprocals(const uint32* input, uint32* output) {
  each_pair(input, [&](int i, float x, float) {
    output[i] = __float_as_uint(reciprocal_approximate(x));
    output[NUM_WORDS + i] = __float_as_uint(reciprocal_sqrt_approximate(fabsf(x)));
  });
}
EXPERIMENT(approximate_reciprocals, WARP_SIZE, 0, NUM_WORDS, 2 * NUM_WORDS)

extern "C" __global__ void bits_of_words(const uint32* input, uint32* output) {
  each_pair(input, [&](int i, float x, float y) {
    const uint32 a = __float_as_uint(x), b = __float_as_uint(y);
    output[i] = __byte_perm(a, b, a & 0x7777);
    output[NUM_WORDS + i] = __popc(a) | __ffs(a) << 8 | __clz(a) << 16;
    output[2 * NUM_WORDS + i] = __umulhi(a, b);
    const uint64 product = __umul64hi(uint64{a} << 32 | b, uint64{b} << 32 | a);
    output[3 * NUM_WORDS + i] = static_cast<uint32>(product);
    output[4 * NUM_WORDS + i] = static_cast<uint32>(product >> 32);
  });
}
EXPERIMENT(bits_of_words, WARP_SIZE, 0, NUM_WORDS, 5 * NUM_WORDS)

// ---- copies: 64 threads, each 16 bytes of two groups

// The second group is of zeros in every other thread, and is waited for later; each thread reads what another copied.
extern "C" __global__ void copy_in_groups(const uint32* input, uint32* output) {
  OCTAVO_SHARED(shared);
  const int thread = threadIdx.x, other = 63 - thread;
  const uint32* tile = reinterpret_cast<const uint32*>(shared);
  copy_async<16>(shared + thread * 16, input + thread * 4, true);
  commit_copies();
  copy_async<16>(shared + 1024 + thread * 16, input + 256 + thread * 4, thread % 2 == 0);
  commit_copies();
  copy_async<8>(shared + 2048 + thread * 8, input + 512 + thread * 2, thread % 3 != 0);
  copy_async<4>(shared + 2560 + thread * 4, input + 640 + thread, thread % 5 != 0);
  commit_copies();
  wait_for_copies<2>();
  __syncthreads();
  for (int i = 0; i < 4; i++) output[thread * 4 + i] = tile[other * 4 + i];
  wait_for_copies<0>();
  __syncthreads();
  for (int i = 0; i < 4; i++) output[256 + thread * 4 + i] = tile[256 + other * 4 + i];
  for (int i = 0; i < 2; i++) output[512 + thread * 2 + i] = tile[512 + other * 2 + i];
  output[640 + thread] = tile[640 + other];
}
EXPERIMENT(copy_in_groups, 64, 2816, 704, 704)

// ---- matrices: 32 rows of 16 bytes, in an order that the lanes' addresses mix

extern "C" __global__ void read_matrices(const uint32* input, uint32* output) {
  OCTAVO_SHARED(shared);
  uint32* rows = reinterpret_cast<uint32*>(shared);
  const int lane = threadIdx.x;
  for (int i = 0; i < 4; i++) rows[lane * 4 + i] = input[lane * 4 + i];
  __syncwarp();
  const uint8* row = shared + (lane * 5 + 3) % 32 * 16;
  uint32 four[4], two[2];
  load_matrices(four, row);
  for (int i = 0; i < 4; i++) output[i * 32 + lane] = four[i];
  load_matrices_transposed(four, row);
  for (int i = 0; i < 4; i++) output[128 + i * 32 + lane] = four[i];
  load_matrices(two, row);
  for (int i = 0; i < 2; i++) output[256 + i * 32 + lane] = two[i];
  load_matrices_transposed(two, row);
  for (int i = 0; i < 2; i++) output[320 + i * 32 + lane] = two[i];
}
EXPERIMENT(read_matrices, WARP_SIZE, 512, 128, 384)

// Of a lane: four words of a, two of b, four of sums.
template <class Multiply>
OCTAVO_DEVICE void multiply_fragments(const uint32* input, uint32* output, Multiply multiply) {
  const int lane = threadIdx.x;
  uint32 words[10];
  float sums[4];
  for (int i = 0; i < 10; i++) words[i] = input[i * 32 + lane];
  const uint32 a[4] = {words[0], words[1], words[2], words[3]};
  for (int i = 0; i < 4; i++) sums[i] = __uint_as_float(words[6 + i]);
  multiply(sums, a, words[4], words[5]);
  for (int i = 0; i < 4; i++) output[i * 32 + lane] = __float_as_uint(sums[i]);
}

extern "C" __global__ void multiply_bf16(const uint32* input, uint32* output) {
  multiply_fragments(input, output, [](float (&sums)[4], const uint32 (&a)[4], uint32 b0, uint32 b1) {
    mma_bf16(sums, a, b0, b1);
  });
}
EXPERIMENT(multiply_bf16, WARP_SIZE, 0, 320, 128)

extern "C" __global__ void multiply_fp16(const uint32* input, uint32* output) {
  multiply_fragments(input, output, [](float (&sums)[4], const uint32 (&a)[4], uint32 b0, uint32 b1) {
    mma_fp16(sums, a, b0, b1);
  });
}
EXPERIMENT(multiply_fp16, WARP_SIZE, 0, 320, 128)

// ---- between threads

extern "C" __global__ void exchange_between_lanes(const uint32* input, uint32* output) {
  const int lane = threadIdx.x;
  const uint32 value = input[lane];
  output[lane] = __shfl_sync(ALL_LANES, value, value % 32);
  output[32 + lane] = __shfl_sync(ALL_LANES, value, lane * 3, 8);
  output[64 + lane] = __shfl_xor_sync(ALL_LANES, value, 13);
  output[96 + lane] = __shfl_xor_sync(ALL_LANES, value, 9, 8);
  output[128 + lane] = __shfl_down_sync(ALL_LANES, value, 5, 16);
  output[160 + lane] = __shfl_up_sync(ALL_LANES, value, 5, 16);
  output[192 + lane] = __ballot_sync(ALL_LANES, value & 1);
  output[224 + lane] = __any_sync(ALL_LANES, value == input[7]) | __all_sync(ALL_LANES, value != 0) << 1;
  output[256 + lane] = lane < 16 ? __shfl_xor_sync(0xffffu, value, 6) : 0;
}
EXPERIMENT(exchange_between_lanes, WARP_SIZE, 0, 32, 288)

// Two warps fill a table which the third waits for; the fourth reads it after the block's barrier.
extern "C" __global__ void meet_at_barriers(const uint32* input, uint32* output) {
  OCTAVO_SHARED(shared);
  uint32* table = reinterpret_cast<uint32*>(shared);
  const int thread = threadIdx.x, warp = thread / WARP_SIZE;
  if (warp < 2) {
    table[thread] = input[thread] * 3;
    __threadfence_block();
    barrier_arrive(4, 96);
  } else if (warp == 2) {
    barrier_wait(4, 96);
    output[thread - 64] = table[127 - thread];
  }
  __syncthreads();
  if (warp == 3) output[thread - 64] = table[(thread * 7) % 64];
}
EXPERIMENT(meet_at_barriers, 128, 256, 64, 64)

extern "C" __global__ void meet_in_memory(const uint32* input, uint32* output) {
  if (threadIdx.x < 6) output[threadIdx.x] = threadIdx.x == 2 ? ~0u : 0;
  __threadfence();
  __syncthreads();
  const uint32 value = input[threadIdx.x];
  atomicAdd(output, value);
  atomicMax(output + 1, value);
  atomicMin(output + 2, value);
  atomicOr(output + 3, value & 0x0f0f0f0fu);
  if (threadIdx.x == 40) atomicExch(output + 4, value);
  atomicCAS(output + 5, 0u, 7u);
}
EXPERIMENT(meet_in_memory, 128, 0, 128, 6)
