// Small kernels, some of them wrong on purpose: what cuda/host/ must compute, and what it must notice.
#include "primitives.cuh"

constexpr int NUM_THREADS = 64;

// ---- what the wrappers compute

// sums[16, 8] += a[16, 16] · b[8, 16]ᵀ, from rows in shared memory, as all kernels do it.
extern "C" __global__ void multiply(const uint16* a, const uint16* b, float* sums, int is_fp16) {
  OCTAVO_SHARED(shared);
  uint16 *a_rows = reinterpret_cast<uint16*>(shared), *b_rows = a_rows + 16 * 24;  // rows of 3 chunks
  const int lane = threadIdx.x;
  for (int i = lane; i < 256; i += 32) a_rows[i / 16 * 24 + i % 16] = a[i];
  for (int i = lane; i < 128; i += 32) b_rows[i / 16 * 24 + i % 16] = b[i];
  __syncwarp();
  uint32 left[4], right[2];
  load_matrices(left, a_rows + lane % 16 * 24 + lane / 16 * 8);
  load_matrices(right, b_rows + lane % 8 * 24 + lane / 8 % 2 * 8);
  float mine[4];
  const int row = lane / 4, column = lane % 4 * 2;
  for (int i = 0; i < 4; i++) mine[i] = sums[(row + i / 2 * 8) * 8 + column + i % 2];
  if (is_fp16) mma_fp16(mine, left, right[0], right[1]);
  else mma_bf16(mine, left, right[0], right[1]);
  for (int i = 0; i < 4; i++) sums[(row + i / 2 * 8) * 8 + column + i % 2] = mine[i];
}
OCTAVO_KERNEL(multiply, 32, 24 * 24 * 2)

// output[4][16 columns, 16 rows] = four ways to read input[16, 16] that give the same transposed matrix.
extern "C" __global__ void transpose(const uint16* input, uint32* output) {
  OCTAVO_SHARED(shared);
  uint16* rows = reinterpret_cast<uint16*>(shared);
  const int lane = threadIdx.x;
  for (int i = lane; i < 256; i += 32) rows[i / 16 * 24 + i % 16] = input[i];
  __syncwarp();
  uint32 four[4], two[2];
  load_matrices_transposed(four, rows + lane % 16 * 24 + lane / 16 * 8);
  for (int i = 0; i < 4; i++) output[(i / 2 * 8 + lane / 4) * 8 + i % 2 * 4 + lane % 4] = four[i];
  load_matrices_transposed(two, rows + lane % 16 * 24);
  for (int i = 0; i < 2; i++) output[128 + lane / 4 * 8 + i * 4 + lane % 4] = two[i];
}
OCTAVO_KERNEL(transpose, 32, 16 * 24 * 2)

extern "C" __global__ void convert_fp8(const uint8* codes, const float* floats, uint32* fp16, uint32* moved, uint32* fp8,
                                       uint32* arithmetic) {
  for (int i = threadIdx.x; i < 256; i += NUM_THREADS) {
    fp16[i] = fp8_to_fp16(codes[i] | codes[255 - i] << 8);
    moved[i] = fp8_bits_to_fp16_bits(codes[i] | codes[255 - i] << 8);
  }
  for (int i = threadIdx.x; i < 4096; i += NUM_THREADS) {
    fp8[i] = pack_fp8(floats[i], -floats[i]);
    arithmetic[i] = float_to_fp8_bits(floats[i]) | float_to_fp8_bits(-floats[i]) << 8;
  }
}
OCTAVO_KERNEL(convert_fp8, NUM_THREADS, 0)

extern "C" __global__ void shuffle(int* output) {
  const int lane = threadIdx.x;
  output[lane] = __shfl_sync(ALL_LANES, lane, 5);
  output[32 + lane] = __shfl_xor_sync(ALL_LANES, lane, 3);
  output[64 + lane] = __shfl_down_sync(ALL_LANES, lane, 9);
  output[96 + lane] = __shfl_up_sync(ALL_LANES, lane, 9);
  output[128 + lane] = __shfl_sync(ALL_LANES, lane, 1, 8);
  output[160 + lane] = __ballot_sync(ALL_LANES, lane % 3 == 0);
  if (lane < 4) output[192 + lane] = __shfl_xor_sync(0xf, lane, 1);
}
OCTAVO_KERNEL(shuffle, 32, 0)

// ---- races: `mistake` leaves out what makes it right

// The first warp writes, the second reads.
extern "C" __global__ void hand_over(int* output, int mistake) {
  OCTAVO_SHARED(shared);
  int* numbers = reinterpret_cast<int*>(shared);
  if (threadIdx.x < 32) numbers[threadIdx.x] = threadIdx.x;
  if (!mistake) __syncthreads();
  if (threadIdx.x >= 32) output[threadIdx.x - 32] = numbers[63 - threadIdx.x];
}
OCTAVO_KERNEL(hand_over, NUM_THREADS, 128)

// The same within a warp.
extern "C" __global__ void hand_over_in_warp(int* output, int mistake) {
  OCTAVO_SHARED(shared);
  int* numbers = reinterpret_cast<int*>(shared);
  numbers[threadIdx.x] = threadIdx.x;
  if (!mistake) __syncwarp();
  output[threadIdx.x] = numbers[31 - threadIdx.x];
}
OCTAVO_KERNEL(hand_over_in_warp, 32, 128)

// The same with a named barrier, at which the first warp does not wait.
extern "C" __global__ void hand_over_by_name(int* output, int mistake) {
  OCTAVO_SHARED(shared);
  int* numbers = reinterpret_cast<int*>(shared);
  if (threadIdx.x < 32) {
    numbers[threadIdx.x] = threadIdx.x;
    barrier_arrive(3, 64);
  } else {
    barrier_wait(mistake ? 4 : 3, mistake ? 32 : 64);
    output[threadIdx.x - 32] = numbers[63 - threadIdx.x];
  }
}
OCTAVO_KERNEL(hand_over_by_name, NUM_THREADS, 128)

// 1: waits for one group too few. 2: reads what another thread copied. 3: overwrites a source before its copy.
extern "C" __global__ void copy_groups(int4* input, int4* output, int mistake) {
  OCTAVO_SHARED(shared);
  int4* tile = reinterpret_cast<int4*>(shared);
  const int thread = threadIdx.x;
  copy_async<16>(tile + thread, input + thread, true);
  commit_copies();
  copy_async<16>(tile + 64 + thread, input + 64 + thread, thread % 2 == 0);
  commit_copies();
  if (mistake == 3) input[thread] = make_int4(0, 0, 0, 0);
  if (mistake == 1) wait_for_copies<2>();
  else wait_for_copies<1>();
  if (mistake != 2) __syncthreads();
  output[thread] = tile[63 - thread];
  wait_for_copies<0>();
  __syncthreads();
  output[64 + thread] = tile[64 + 63 - thread];
}
OCTAVO_KERNEL(copy_groups, NUM_THREADS, 128 * 16)

// ---- mistakes that end a launch

extern "C" __global__ void misbehave(int* output, int mistake) {
  OCTAVO_SHARED(shared);
  const int thread = threadIdx.x, lane = thread % 32;
  output[thread] = lane;
  if (mistake == 1) output[64] = 1;
  if (mistake == 2) output[lane] = output[64 + lane];
  if (mistake == 3) shared[1024] = 1;
  if (mistake == 4) shared[1000] = 1;
  if (mistake == 5) {
    if (lane < 16) __syncthreads();
    else __syncwarp();
  }
  if (mistake == 6 && lane < 16) __syncwarp();
  if (mistake == 7) {
    if (lane < 16) __syncwarp();
    else __shfl_sync(ALL_LANES, lane, 0);
  }
  if (mistake == 8) __shfl_sync(0xffff, lane, 0);
  if (mistake == 9 && lane < 4) __shfl_sync(0xf, lane, 4);
  if (mistake == 10) copy_async<16>(shared + 8, output, true);
  if (mistake == 11) copy_async<16>(shared + 992, output, true);
  if (mistake == 12) {
    copy_async<4>(shared + thread * 4, output, true);
    commit_copies();
  }
  if (mistake == 13) barrier_wait(mistake + 7, 64);
  if (mistake == 14) barrier_wait(1, 40);
  if (mistake == 15) output[thread] = thread / output[0];
  if (mistake == 16) {
    uint32 registers[2];
    load_matrices(registers, shared + 4);
  }
}
OCTAVO_KERNEL(misbehave, NUM_THREADS, 992)

extern "C" __global__ void read_columns(int pitch) {
  OCTAVO_SHARED(shared);
  uint32 registers[4];
  load_matrices(registers, shared + threadIdx.x * pitch);
}
OCTAVO_KERNEL(read_columns, 32, 32 * 144)
