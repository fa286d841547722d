// The product of a mixture of experts (moe.cuh): each tile of pairs by its own expert's matrix, on tensor cores.
//
// With few tokens an expert has few rows, and what takes time is to read its matrix, once. A unit of work is one tile
// and TILE_COLUMNS of the outputs; units of one expert come side by side, such that its second tile finds the matrix in
// L2. The steps along the inputs go through a pipeline of copies, NUM_STAGES - 1 ahead. Sums are not split: each number
// is summed by one thread in one order, whatever else is in the batch.
//
// The grid is as many blocks as the GPU holds: each takes every gridDim.x'th unit.
#include "moe.cuh"

#ifndef NUM_STAGES
#define NUM_STAGES 3
#endif

// Mirrored by python/octavo/backends/cuda/arguments.py. in_features and all strides are multiples of 8 elements.
struct ExpertProductCall {
  const void* input;    // [tokens or pairs, input_stride], of which in_features are read
  const void* weights;  // [experts, out_features, in_features]
  void* output;         // [pairs, output_stride], of which out_features are written
  ExpertTiles tiles;
  int64 input_stride, output_stride;  // elements
  int in_features;
  int out_features;     // even
  int pairs_per_input;  // top_k where the input has a row a token; 1 where it has a row a pair
};

constexpr int NUM_WARPS = 4, NUM_THREADS = NUM_WARPS * WARP_SIZE;
constexpr int WARP_COLUMNS = 32, TILE_COLUMNS = NUM_WARPS * WARP_COLUMNS;
constexpr int ROW_TILES = TILE_ROWS / 16, STEP = 64;  // inputs
constexpr int CHUNK = 16, CHUNK_ELEMENTS = 8, STEP_CHUNKS = STEP / CHUNK_ELEMENTS;
// An odd number of chunks: eight rows of one column of chunks then lie in eight different groups of banks.
constexpr int PITCH = (STEP_CHUNKS + 1) * CHUNK;
constexpr int INPUT_BYTES = TILE_ROWS * PITCH, STAGE_BYTES = INPUT_BYTES + TILE_COLUMNS * PITCH;
constexpr int PAIRS_BYTES = TILE_ROWS * sizeof(int);
constexpr int SHARED_BYTES = NUM_STAGES * STAGE_BYTES + PAIRS_BYTES;
static_assert(TILE_ROWS % 16 == 0, "m16n8k16 has 16 rows");

struct ProductUnit {
  int tile, expert, first_column;

  OCTAVO_DEVICE ProductUnit(const ExpertProductCall& call, int unit, int num_tiles)
      : tile(unit % num_tiles), expert(call.tiles.expert[tile]), first_column(unit / num_tiles * TILE_COLUMNS) {}
};

// Starts the copies of one step. Rows and inputs that are not there become zeros.
OCTAVO_DEVICE void copy_step(const ExpertProductCall& call, const ProductUnit& unit, const int* pairs, uint8* stage,
                             int first_input) {
  const auto* input = static_cast<const uint16*>(call.input);
  const auto* weights =
      static_cast<const uint16*>(call.weights) + static_cast<int64>(unit.expert) * call.out_features * call.in_features;
#pragma unroll
  for (int index = threadIdx.x; index < (TILE_ROWS + TILE_COLUMNS) * STEP_CHUNKS; index += NUM_THREADS) {
    const int row = index / STEP_CHUNKS, chunk = index % STEP_CHUNKS;
    const int first = first_input + chunk * CHUNK_ELEMENTS;
    bool valid = first < call.in_features;
    const uint16* from = weights;
    if (row < TILE_ROWS) {
      const int pair = pairs[row];
      valid &= pair >= 0;
      if (valid) from = input + pair / call.pairs_per_input * call.input_stride + first;
    } else {
      const int column = unit.first_column + row - TILE_ROWS;
      valid &= column < call.out_features;
      if (valid) from = weights + static_cast<int64>(column) * call.in_features + first;
    }
    copy_async<CHUNK>(stage + row * PITCH + chunk * CHUNK, from, valid);
  }
}

struct Sums {
  float tiles[ROW_TILES][WARP_COLUMNS / 8][4];
};

OCTAVO_DEVICE void multiply_step(const uint8* stage, Sums& sums) {
  const int warp = threadIdx.x / WARP_SIZE, lane = threadIdx.x % WARP_SIZE;
  const uint8* weights = stage + INPUT_BYTES + warp * WARP_COLUMNS * PITCH;
#pragma unroll
  for (int step = 0; step < STEP / 16; step++) {
    uint32 b[WARP_COLUMNS / 16][4];
#pragma unroll
    for (int i = 0; i < WARP_COLUMNS / 16; i++)
      load_matrices(b[i], weights + (i * 16 + lane % 8 + lane / 16 * 8) * PITCH + (step * 2 + lane / 8 % 2) * CHUNK);
#pragma unroll
    for (int tile = 0; tile < ROW_TILES; tile++) {
      uint32 a[4];
      load_matrices(a, stage + (tile * 16 + lane % 16) * PITCH + (step * 2 + lane / 16) * CHUNK);
#pragma unroll
      for (int i = 0; i < WARP_COLUMNS / 16; i++) {
        Element::mma(sums.tiles[tile][2 * i], a, b[i][0], b[i][1]);
        Element::mma(sums.tiles[tile][2 * i + 1], a, b[i][2], b[i][3]);
      }
    }
  }
}

OCTAVO_DEVICE void write_sums(const ExpertProductCall& call, const ProductUnit& unit, const int* pairs,
                              const Sums& sums) {
  const int warp = threadIdx.x / WARP_SIZE, lane = threadIdx.x % WARP_SIZE;
#pragma unroll
  for (int tile = 0; tile < ROW_TILES; tile++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int pair = pairs[tile * 16 + half * 8 + lane / 4];
      if (pair < 0) continue;
      uint16* row = static_cast<uint16*>(call.output) + pair * call.output_stride;
#pragma unroll
      for (int i = 0; i < WARP_COLUMNS / 8; i++) {
        const int column = unit.first_column + warp * WARP_COLUMNS + i * 8 + lane % 4 * 2;
        const float* pair_of_sums = sums.tiles[tile][i] + 2 * half;
        if (column < call.out_features)
          *reinterpret_cast<uint32*>(row + column) = Element::pack(pair_of_sums[0], pair_of_sums[1]);
      }
    }
  }
}

extern "C" __global__ void __launch_bounds__(NUM_THREADS, 2)
expert_product(const __grid_constant__ ExpertProductCall call) {
  OCTAVO_SHARED(shared);
  int* pairs = reinterpret_cast<int*>(shared + NUM_STAGES * STAGE_BYTES);
  const int num_tiles = *call.tiles.num_tiles, num_steps = (call.in_features + STEP - 1) / STEP;
  const int num_units = num_tiles * ((call.out_features + TILE_COLUMNS - 1) / TILE_COLUMNS);
  for (int index = blockIdx.x; index < num_units; index += gridDim.x) {
    const ProductUnit unit(call, index, num_tiles);
    for (int row = threadIdx.x; row < TILE_ROWS; row += NUM_THREADS)
      pairs[row] = call.tiles.pair[unit.tile * TILE_ROWS + row];
    __syncthreads();  // the pairs are known

    auto copy = [&](int step) {  // a group is closed even if it is empty: the waits count groups
      if (step < num_steps) copy_step(call, unit, pairs, shared + step % NUM_STAGES * STAGE_BYTES, step * STEP);
      commit_copies();
    };
    for (int step = 0; step < NUM_STAGES - 1; step++) copy(step);
    Sums sums{};
    for (int step = 0; step < num_steps; step++) {
      wait_for_copies<NUM_STAGES - 2>();
      __syncthreads();  // all copies of this step have landed, and the step before is done with its stage
      copy(step + NUM_STAGES - 1);
      multiply_step(shared + step % NUM_STAGES * STAGE_BYTES, sums);
    }
    wait_for_copies<0>();
    write_sums(call, unit, pairs, sums);
    __syncthreads();  // every warp is done with stages and pairs
  }
}
OCTAVO_KERNEL(expert_product, NUM_THREADS, SHARED_BYTES)
OCTAVO_CONSTANT(moe_tile_rows, TILE_ROWS)
