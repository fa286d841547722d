// out [M, N] = x [M, K] · weights [K, N] + bias, for few rows: weights of 4 bits in groups with a scale and a zero.
//
// Decoding reads all weights for a handful of tokens, so all that matters is that they stream. The weights are repacked
// once (backends/cuda/int4.py) into the order of registers: one access of 16 bytes gives a lane its part of 32 outputs
// and 32 inputs. Weights are the left matrix of m16n8k16, 16 outputs by 16 inputs, and tokens its right one, in tiles
// of 8: few tokens waste little.
//
// A code becomes a number without a conversion: its bits, below those of a power of two whose last bit counts 1, are
// that power plus the code. Subtracting the power plus the zero is exact. The scale, which is the same for all inputs
// of a group, multiplies the sums instead of the weights: a lane's sums are of four outputs, whatever the tokens.
//
// A block makes 128 outputs of one tile of tokens, each warp 32. To keep every multiprocessor busy the inputs are split
// as the launcher says; each block then leaves its sums in memory, and the last one to arrive adds them all, in order,
// so that the result does not depend on who was last. The grid may have any size.
#include "elements.cuh"

// Mirrored by python/octavo/backends/cuda/arguments.py.
struct Int4GemmCall {
  const void* x;           // [num_rows, x_stride], of which num_inputs are read
  const uint32* weights;   // [N / 32, K / 32, 32 lanes, 4]: of a lane, the fragments a of 2 · 2 tiles of 16 by 16
  const uint32* scales;    // [groups, N]: floats without their last 5 bits, which hold the zero; each 32 as lanes read
  const void* bias;        // [N], or null
  void* out;               // [num_rows, out_stride]
  float* partial_sums;     // [units, 128 · tokens of a tile], if num_splits > 1
  int* num_arrived;        // [tiles of tokens · tiles of outputs], with it: zeros before and after
  int64 x_stride, out_stride;  // elements; x_stride a multiple of 8
  int num_rows;
  int num_inputs;   // K, a multiple of 64
  int num_outputs;  // N, a multiple of 32
  int group_size;   // a multiple of 32 that divides K
  int num_splits;   // of the inputs; at most K / 64
};

using Element = ELEMENT_TYPE;

constexpr int NUM_WARPS = 4, NUM_THREADS = NUM_WARPS * WARP_SIZE;
constexpr int WARP_OUTPUTS = 32, BLOCK_OUTPUTS = NUM_WARPS * WARP_OUTPUTS;
constexpr int BLOCK_ROWS = TOKEN_TILES * 8;
constexpr int STEP_INPUTS = 32, TILE_INPUTS = 2 * STEP_INPUTS;
constexpr int CHUNK = 16;

// A stage: the tokens' inputs, rows an odd number of chunks apart for ldmatrix, and the weights of each thread.
constexpr int NUM_STAGES = 4;
constexpr int X_CHUNKS = TILE_INPUTS * 2 / CHUNK, X_PITCH = (X_CHUNKS + 1) * CHUNK, X_BYTES = BLOCK_ROWS * X_PITCH;
constexpr int STAGE_BYTES = X_BYTES + NUM_THREADS * 2 * CHUNK;
constexpr int SHARED_BYTES = NUM_STAGES * STAGE_BYTES;
// Blocks that shall fit on a multiprocessor. Without it the compiler may aim higher, and spill.
constexpr int MIN_BLOCKS = TOKEN_TILES <= 4 ? 3 : 2;

// Sums of one warp: tiles of 16 outputs, tiles of 8 tokens, and a lane's four of m16n8k16: outputs row and row + 8 (row
// = lane / 4), each of tokens column and column + 1 (column = 2 · (lane mod 4)).
using Sums = float[2][TOKEN_TILES][4];

struct Unit {
  int tile, split, first_row, first_output;  // the output is the warp's
  int first_tile, end_tile;                  // of TILE_INPUTS
  bool has_outputs;

  OCTAVO_DEVICE static int tiles_of_outputs(const Int4GemmCall& call) {
    return (call.num_outputs + BLOCK_OUTPUTS - 1) / BLOCK_OUTPUTS;
  }
  OCTAVO_DEVICE static int count(const Int4GemmCall& call) {
    return (call.num_rows + BLOCK_ROWS - 1) / BLOCK_ROWS * tiles_of_outputs(call) * call.num_splits;
  }
  OCTAVO_DEVICE Unit(const Int4GemmCall& call, int number) {
    tile = number / call.num_splits;
    split = number % call.num_splits;
    first_row = tile / tiles_of_outputs(call) * BLOCK_ROWS;
    first_output = tile % tiles_of_outputs(call) * BLOCK_OUTPUTS + threadIdx.x / WARP_SIZE * WARP_OUTPUTS;
    has_outputs = first_output < call.num_outputs;
    const int num_tiles = call.num_inputs / TILE_INPUTS;
    first_tile = split * num_tiles / call.num_splits;
    end_tile = (split + 1) * num_tiles / call.num_splits;
  }
};

// Starts a unit's copies, tile by tile: the tokens' inputs by the whole block, the weights by each lane for itself. A
// thread's addresses are found once; a tile then costs additions only.
class TileCopies {
  static constexpr int ROWS_AT_ONCE = NUM_THREADS / X_CHUNKS;
  const Element::Storage* x;  // the thread's chunk of its first row
  const uint32* weights;      // the lane's
  int64 stride_at_once;
  uint8 *stages, *x_place;  // the latter in stage 0
  int row, num_rows;        // of the thread in the block's, and those that there are
  int tiles_left, stage = 0;
  bool has_outputs;

 public:
  OCTAVO_DEVICE TileCopies(const Int4GemmCall& call, const Unit& unit, uint8* shared)
      : stages(shared), has_outputs(unit.has_outputs) {
    const int chunk = threadIdx.x % X_CHUNKS;
    row = threadIdx.x / X_CHUNKS;
    num_rows = call.num_rows - unit.first_row;
    tiles_left = unit.end_tile - unit.first_tile;
    x = static_cast<const Element::Storage*>(call.x) + (unit.first_row + row) * call.x_stride +
        unit.first_tile * TILE_INPUTS + chunk * (CHUNK / 2);
    x_place = shared + row * X_PITCH + chunk * CHUNK;
    stride_at_once = ROWS_AT_ONCE * call.x_stride;
    const int64 step = unit.first_output / WARP_OUTPUTS * static_cast<int64>(call.num_inputs / STEP_INPUTS);
    weights = call.weights + ((step + unit.first_tile * 2) * WARP_SIZE + threadIdx.x % WARP_SIZE) * 4;
  }

  OCTAVO_DEVICE void copy_next() {  // a group is closed even if it is empty: the waits count groups
    if (tiles_left-- > 0) {
      uint8* to = stages + stage * STAGE_BYTES;
#pragma unroll
      for (int first = 0; first < BLOCK_ROWS; first += ROWS_AT_ONCE)
        if (first + row < BLOCK_ROWS)  // rows behind the last become zeros, and are not read
          copy_async<CHUNK>(x_place + stage * STAGE_BYTES + first * X_PITCH, x + first / ROWS_AT_ONCE * stride_at_once,
                            first + row < num_rows);
#pragma unroll
      for (int step = 0; step < 2; step++)
        if (has_outputs)
          copy_async<CHUNK>(to + X_BYTES + (step * NUM_THREADS + threadIdx.x) * CHUNK, weights + step * WARP_SIZE * 4,
                            true);
      x += TILE_INPUTS;
      weights += 2 * WARP_SIZE * 4;
      stage = (stage + 1) % NUM_STAGES;
    }
    commit_copies();
  }
};

// What a lane needs of a group: its four outputs' scales, and what makes numbers of their codes.
struct Group {
  uint32 minus_zero[4];
  float scale[4];

  OCTAVO_DEVICE void take(const uint4& words) {
    const uint32 word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float minus = -(Element::INTEGERS_FROM + static_cast<float>(word[i] & 31));
      minus_zero[i] = Element::pack(minus, minus);
      scale[i] = __uint_as_float(word[i] & ~31u);
    }
  }

  // The fragment a of 16 outputs and 16 inputs. A word has the codes of neighbouring inputs 16 bits apart.
  OCTAVO_DEVICE void unpack(uint32 (&a)[4], uint32 codes, int tile) const {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const uint32 numbers = (codes >> (4 * i) & 0x000f000fu) | Element::INTEGERS_FROM_PAIR;
      a[i] = Element::fma(numbers, Element::ONE_PAIR, minus_zero[2 * tile + i % 2]);
    }
  }
};

// One step of 32 inputs, from a stage in shared memory.
OCTAVO_DEVICE void multiply_step(const uint8* stage, int step, const Group& group, Sums& sums) {
  const int lane = threadIdx.x % WARP_SIZE;
  const uint4 words = *reinterpret_cast<const uint4*>(stage + X_BYTES + (step * NUM_THREADS + threadIdx.x) * CHUNK);
  uint32 weights[2][2][4];  // tiles of inputs, of outputs
  group.unpack(weights[0][0], words.x, 0);
  group.unpack(weights[0][1], words.y, 1);
  group.unpack(weights[1][0], words.z, 0);
  group.unpack(weights[1][1], words.w, 1);
#pragma unroll
  for (int tokens = 0; tokens < TOKEN_TILES; tokens++) {
    uint32 x[4];
    load_matrices(x, stage + (tokens * 8 + lane % 8) * X_PITCH + (step * 4 + lane / 8) * CHUNK);
#pragma unroll
    for (int tile = 0; tile < 2; tile++) {
      Element::mma(sums[tile][tokens], weights[0][tile], x[0], x[1]);
      Element::mma(sums[tile][tokens], weights[1][tile], x[2], x[3]);
    }
  }
}

// The sums of a group, times its scales, join those of the groups before.
OCTAVO_DEVICE void end_group(const Group& group, Sums& sums, Sums& totals) {
#pragma unroll
  for (int tile = 0; tile < 2; tile++)
#pragma unroll
    for (int tokens = 0; tokens < TOKEN_TILES; tokens++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        totals[tile][tokens][i] += group.scale[2 * tile + i / 2] * sums[tile][tokens][i];
        sums[tile][tokens][i] = 0.f;
      }
}

// The totals of a unit, without the bias.
OCTAVO_DEVICE void multiply(const Int4GemmCall& call, const Unit& unit, uint8* shared, Sums& totals) {
  TileCopies copies(call, unit, shared);
#pragma unroll
  for (int ahead = 0; ahead < NUM_STAGES - 1; ahead++) copies.copy_next();

  // Scales are read a group ahead, for they come from far away too.
  const int first_input = unit.first_tile * TILE_INPUTS, num_groups = call.num_inputs / call.group_size;
  int next = first_input / call.group_size, inputs_left = 0;
  const uint32* scales = call.scales + unit.first_output + threadIdx.x % WARP_SIZE / 4 * 4;
  auto read_scales = [&](int group) {
    const bool exists = unit.has_outputs && group < num_groups;
    return exists ? *reinterpret_cast<const uint4*>(scales + static_cast<int64>(group) * call.num_outputs)
                  : make_uint4(0, 0, 0, 0);
  };
  uint4 next_scales = read_scales(next);
  Group group{};
  Sums sums{};

  for (int tile = unit.first_tile; tile < unit.end_tile; tile++) {
    wait_for_copies<NUM_STAGES - 2>();
    __syncthreads();  // this tile is there, and every warp is done with the one before
    copies.copy_next();
    if (!unit.has_outputs) continue;
    const uint8* stage = shared + (tile - unit.first_tile) % NUM_STAGES * STAGE_BYTES;
#pragma unroll
    for (int step = 0; step < 2; step++) {
      if (inputs_left == 0) {
        end_group(group, sums, totals);
        group.take(next_scales);
        const int input = tile * TILE_INPUTS + step * STEP_INPUTS;
        inputs_left = (next + 1) * call.group_size - input;
        next_scales = read_scales(++next);
      }
      multiply_step(stage, step, group, sums);
      inputs_left -= STEP_INPUTS;
    }
  }
  end_group(group, sums, totals);
  wait_for_copies<0>();
}

// Leaves the totals of one split, and takes those of all, if all are there. True: the totals are whole.
OCTAVO_DEVICE bool join_splits(const Int4GemmCall& call, const Unit& unit, uint8* shared, Sums& totals) {
  constexpr int QUADS = 2 * TOKEN_TILES;
  auto* partial = reinterpret_cast<float4*>(call.partial_sums);
  auto place = [&](int split, int quad) {
    return ((static_cast<int64>(unit.tile) * call.num_splits + split) * QUADS + quad) * NUM_THREADS + threadIdx.x;
  };
#pragma unroll
  for (int quad = 0; quad < QUADS; quad++) {
    const float* sums = totals[quad / TOKEN_TILES][quad % TOKEN_TILES];
    partial[place(unit.split, quad)] = make_float4(sums[0], sums[1], sums[2], sums[3]);
  }
  __threadfence();  // the sums are seen before the arrival
  __syncthreads();  // every thread's; and the tiles' memory is free
  int* arrived_before = reinterpret_cast<int*>(shared);
  if (threadIdx.x == 0) *arrived_before = atomicAdd(call.num_arrived + unit.tile, 1);
  __syncthreads();
  if (*arrived_before != call.num_splits - 1) return false;
  if (threadIdx.x == 0) call.num_arrived[unit.tile] = 0;
  __threadfence();
  auto add_split = [&](int split) {
#pragma unroll
    for (int quad = 0; quad < QUADS; quad++) {
      float* sums = totals[quad / TOKEN_TILES][quad % TOKEN_TILES];
      const float4 more = partial[place(split, quad)];
      sums[0] += more.x, sums[1] += more.y, sums[2] += more.z, sums[3] += more.w;
    }
  };
#pragma unroll
  for (int quad = 0; quad < QUADS; quad++)
#pragma unroll
    for (int i = 0; i < 4; i++) totals[quad / TOKEN_TILES][quad % TOKEN_TILES][i] = 0.f;
#pragma unroll 1
  for (int split = 0; split < call.num_splits; split++) add_split(split);
  return true;
}

OCTAVO_DEVICE void write_outputs(const Int4GemmCall& call, const Unit& unit, const Sums& totals) {
  const int lane = threadIdx.x % WARP_SIZE;
  const auto* bias = static_cast<const Element::Storage*>(call.bias);
  auto* out = static_cast<Element::Storage*>(call.out);
#pragma unroll
  for (int i = 0; i < 4; i++) {  // the lane's outputs
    const int output = unit.first_output + lane / 4 + i * 8;
    const float more = bias ? Element::low(bias[output]) : 0.f;
#pragma unroll
    for (int tokens = 0; tokens < TOKEN_TILES; tokens++) {
      const float* sums = totals[i / 2][tokens] + i % 2 * 2;
      const int row = unit.first_row + tokens * 8 + lane % 4 * 2;
      const uint32 pair = Element::pack(sums[0] + more, sums[1] + more);
      if (row < call.num_rows) out[row * call.out_stride + output] = static_cast<uint16>(pair);
      if (row + 1 < call.num_rows) out[(row + 1) * call.out_stride + output] = static_cast<uint16>(pair >> 16);
    }
  }
}

extern "C" __global__ void __launch_bounds__(NUM_THREADS, MIN_BLOCKS)
gemm_w4a16(const __grid_constant__ Int4GemmCall call) {
  OCTAVO_SHARED(shared);
  for (int number = blockIdx.x; number < Unit::count(call); number += gridDim.x) {
    const Unit unit(call, number);
    Sums totals{};
    multiply(call, unit, shared, totals);
    const bool whole = call.num_splits == 1 || join_splits(call, unit, shared, totals);
    if (whole && unit.has_outputs) write_outputs(call, unit, totals);
    __syncthreads();  // every warp is done with the unit's tiles, and knows whether it was the last
  }
}
OCTAVO_KERNEL(gemm_w4a16, NUM_THREADS, SHARED_BYTES)
OCTAVO_CONSTANT(gemm_w4a16_rows, BLOCK_ROWS)
