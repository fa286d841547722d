// Attention of one query token of each request over latents: DeepSeek's MLA, with its matrices absorbed into query and
// output, over pages.
//
// A token has one cached vector of HEAD_DIM numbers for all heads: its key. Its value is the first VALUE_DIM of them, so
// that the vector is read once for both. A unit of work is one item of the list and 16 query heads, the rows of
// m16n8k16; the units of an item come side by side, and find its keys in L2.
//
// The warps of a block share each tile of 32 tokens: for the scores a warp has 8 of the tokens, and for the output
// VALUE_DIM / 4 of the dimensions, for the sums of all would not fit in one warp's registers. In between, their
// probabilities go through shared memory. Parts of a token's keys go to slots, as in paged_decode.cu, and
// attention_merge.cu joins them, compiled for VALUE_DIM.
#include "decode.cuh"

constexpr int VALUE_DIM = 512, NUM_WARPS = 4, NUM_THREADS = NUM_WARPS * WARP_SIZE, NUM_STAGES = 2;
constexpr int WARP_TOKENS = 8, TILE_TOKENS = NUM_WARPS * WARP_TOKENS;
constexpr int WARP_VALUES = VALUE_DIM / NUM_WARPS;
constexpr int QUERY_BYTES = QUERY_ROWS * QUERY_PITCH, TILE_BYTES = TILE_TOKENS * CACHE_PITCH;
constexpr int PROBABILITY_PITCH = tile_pitch(TILE_TOKENS * 2);
static_assert(!CACHE_IS_FP8 && HEAD_DIM % 32 == 0 && HEAD_DIM >= VALUE_DIM);

struct LatentMemory {
  alignas(CHUNK) uint8 query[QUERY_BYTES];
  alignas(CHUNK) uint8 tiles[NUM_STAGES][TILE_BYTES];
  alignas(CHUNK) uint8 probabilities[QUERY_ROWS * PROBABILITY_PITCH];
  float highest[NUM_WARPS][QUERY_ROWS], totals[NUM_WARPS][QUERY_ROWS];
};
constexpr int SHARED_BYTES = sizeof(LatentMemory);

// What a warp has summed: 16 rows, its dimensions. A lane has a part of two rows, lane / 4 and 8 more; of their softmax
// all warps have the same maximum, and each lane the total of what it has scored.
struct LatentSums {
  float columns[WARP_VALUES / 8][4] = {};
  float highest[2] = {-INFINITY, -INFINITY}, total[2] = {0.f, 0.f};
};

// Of the 16 rows with this warp's 8 tokens.
OCTAVO_DEVICE void score_tokens(float (&scores)[1][4], const uint8* query, const uint8* tokens, int lane) {
#pragma unroll
  for (int step = 0; step < HEAD_DIM / 16; step += 2) {
    uint32 a[4], b[4];  // b: 32 dimensions of 8 tokens
    load_matrices(b, tokens + lane % 8 * CACHE_PITCH + (step * 2 + lane / 8) * CHUNK);
    load_query(a, query, step, lane);
    Product::mma(scores[0], a, b[0], b[1]);
    load_query(a, query, step + 1, lane);
    Product::mma(scores[0], a, b[2], b[3]);
  }
}

// Scores to probabilities, up to the factor that comes at the end; what was summed before is scaled to the new maximum.
OCTAVO_DEVICE void take_softmax(float (&scores)[1][4], LatentSums& sums, LatentMemory& memory, int warp, int lane) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const float highest = maximum_of_row(max(scores[0][2 * half], scores[0][2 * half + 1]));
    if (lane % 4 == 0) memory.highest[warp][lane / 4 + 8 * half] = highest;
  }
  __syncthreads();  // every warp has its maxima
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int row = lane / 4 + 8 * half;
    float highest = sums.highest[half];
#pragma unroll
    for (int other = 0; other < NUM_WARPS; other++) highest = max(highest, memory.highest[other][row]);
    const float rescale = exp2_approximate(sums.highest[half] - highest);  // not of two infinities: a tile has a key
    sums.highest[half] = highest;
    const float left = exp2_approximate(scores[0][2 * half] - highest);
    const float right = exp2_approximate(scores[0][2 * half + 1] - highest);
    sums.total[half] = sums.total[half] * rescale + left + right;
    uint8* pair = memory.probabilities + row * PROBABILITY_PITCH + (warp * WARP_TOKENS + lane % 4 * 2) * 2;
    *reinterpret_cast<uint32*>(pair) = Product::pack(left, right);
#pragma unroll
    for (int column = 0; column < WARP_VALUES / 8; column++) {
      sums.columns[column][2 * half] *= rescale;
      sums.columns[column][2 * half + 1] *= rescale;
    }
  }
  __syncthreads();  // the probabilities are whole
}

// Adds this warp's dimensions of all the tile's tokens.
OCTAVO_DEVICE void add_values(LatentSums& sums, const LatentMemory& memory, const uint8* tile, int warp, int lane) {
  const uint8* values = tile + lane % 16 * CACHE_PITCH + warp * WARP_VALUES * 2 + lane / 16 * CHUNK;
#pragma unroll
  for (int step = 0; step < TILE_TOKENS / 16; step++) {
    uint32 a[4];
    load_matrices(a, memory.probabilities + lane % 16 * PROBABILITY_PITCH + (step * 2 + lane / 16) * CHUNK);
#pragma unroll
    for (int column = 0; column < WARP_VALUES / 8; column += 2) {
      uint32 b[4];
      load_matrices_transposed(b, values + step * 16 * CACHE_PITCH + column / 2 * 2 * CHUNK);
      Product::mma(sums.columns[column], a, b[0], b[1]);
      Product::mma(sums.columns[column + 1], a, b[2], b[3]);
    }
  }
}

OCTAVO_DEVICE void attend_latents(const AttentionCall& call, const DecodeUnit& unit, LatentMemory& memory,
                                  LatentSums& sums) {
  const int warp = threadIdx.x / WARP_SIZE, lane = threadIdx.x % WARP_SIZE;
  const TokenGather gather(call, unit.entry, 0, unit.kv_end);
  const Scoring scoring(call, 0);
  const int first_of_warp = warp * WARP_TOKENS;

  int64 offset = gather.look_up(unit.kv_begin + first_of_warp + lane % WARP_TOKENS);
  int next_token = unit.kv_begin, next_stage = 0;
  auto copy_next_tile = [&] {  // a group is closed even if it is empty: the waits count groups
    if (next_token < unit.kv_end) {
      uint8* tokens = memory.tiles[next_stage] + first_of_warp * CACHE_PITCH;
      TokenGather::copy<WARP_TOKENS>(tokens, gather.keys, offset, lane);
      next_token += TILE_TOKENS;
      next_stage = next_stage + 1 == NUM_STAGES ? 0 : next_stage + 1;
      offset = gather.look_up(next_token + first_of_warp + lane % WARP_TOKENS);
    }
    commit_copies();
  };

#pragma unroll
  for (int stage = 0; stage < NUM_STAGES - 1; stage++) copy_next_tile();
  int stage = 0;
  for (int first = unit.kv_begin; first < unit.kv_end; first += TILE_TOKENS) {
    copy_next_tile();
    wait_for_copies<NUM_STAGES - 1>();
    __syncthreads();  // the tile is there, and at first the query
    const uint8* tile = memory.tiles[stage];
    float scores[1][4] = {};
    score_tokens(scores, memory.query, tile + first_of_warp * CACHE_PITCH, lane);
    scoring.apply(scores);
#pragma unroll
    for (int i = 0; i < 4; i++)
      if (first + first_of_warp + lane % 4 * 2 + i % 2 >= unit.kv_end) scores[0][i] = -INFINITY;
    take_softmax(scores, sums, memory, warp, lane);
    add_values(sums, memory, tile, warp, lane);
    __syncthreads();  // every warp is done with tile and probabilities
    stage = stage + 1 == NUM_STAGES ? 0 : stage + 1;
  }
  wait_for_copies<0>();
}

OCTAVO_DEVICE void write_latents(const AttentionCall& call, const DecodeUnit& unit, LatentMemory& memory,
                                 const LatentSums& sums) {
  const int warp = threadIdx.x / WARP_SIZE, lane = threadIdx.x % WARP_SIZE;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const float total = sum_of_row(sums.total[half]);
    if (lane % 4 == 0) memory.totals[warp][lane / 4 + 8 * half] = total;
  }
  __syncthreads();  // every warp has its totals
  const bool is_part = unit.slot >= 0;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int row = lane / 4 + 8 * half, head = unit.first_head + row;
    if (row >= unit.num_rows) continue;
    float total = 0.f;
#pragma unroll
    for (int other = 0; other < NUM_WARPS; other++) total += memory.totals[other][row];
    const Ending ending = end_softmax(sums.highest[half], total, is_part ? -INFINITY : sink_of(call, head));
    const int64 result_row = static_cast<int64>(is_part ? unit.slot : unit.token) * call.num_heads + head;
    float* log_sums = is_part ? call.partial_log_sums : call.log_sums;
    if (log_sums && warp == 0 && lane % 4 == 0) log_sums[result_row] = ending.log_sum;
    const int64 first = result_row * VALUE_DIM + warp * WARP_VALUES + lane % 4 * 2;
#pragma unroll
    for (int column = 0; column < WARP_VALUES / 8; column++) {
      const float value = sums.columns[column][2 * half] * ending.factor;
      const float next = sums.columns[column][2 * half + 1] * ending.factor;
      const int64 element = first + column * 8;
      if (is_part) *reinterpret_cast<float2*>(call.partial_output + element) = make_float2(value, next);
      else *reinterpret_cast<uint32*>(static_cast<uint16*>(call.output) + element) = Query::pack(value, next);
    }
  }
}

extern "C" __global__ void __launch_bounds__(NUM_THREADS, 2) attn_mla(const __grid_constant__ AttentionCall call) {
  OCTAVO_SHARED(shared);
  LatentMemory& memory = *reinterpret_cast<LatentMemory*>(shared);
  const int num_units = *call.work.count * DecodeUnit::per_item(call);
  for (int index = blockIdx.x; index < num_units; index += gridDim.x) {
    const DecodeUnit unit(call, index);
    copy_query<NUM_THREADS>(call, unit, memory.query);
    LatentSums sums;
    attend_latents(call, unit, memory, sums);
    write_latents(call, unit, memory, sums);
    __syncthreads();  // every warp has read the totals: the next unit's, if a window leaves it no key, come at once
  }
}
OCTAVO_KERNEL(attn_mla, NUM_THREADS, SHARED_BYTES)
