// Attention of one query token of each request, over keys and values in pages.
//
// A unit of work is one item of the list, one KV head, and up to 16 of the query heads that share it: these are the 16
// rows of m16n8k16, so that each key and value is read once for all of them. The warps of a block share the keys: each
// takes every NUM_WARPS'th tile of 16, alone, with its own softmax, and at the end the block merges them. Where an item
// has only some of a token's keys, the result goes to a slot, and attention_merge.cu joins the slots.
//
// The grid is as many blocks as the GPU holds, whatever the step: each takes every gridDim.x'th unit. The list
// (attention.cuh: WorkList) and its count are read from the step's arena.
//
// Decoding reads far more than it computes. All that matters is to have enough bytes on their way: while a warp
// computes one tile, the copies of the next NUM_STAGES - 1 are under way, for every warp on the multiprocessor.
#include "decode.cuh"

#ifndef NUM_STAGES
#define NUM_STAGES 2
#endif

constexpr int TILE_TOKENS = 16;
// Two warps where four would need more shared memory than the 99 KB that the smaller GPUs have.
constexpr int NUM_WARPS = CACHE_ROW_BYTES > 256 ? 2 : 4;
constexpr int NUM_THREADS = NUM_WARPS * WARP_SIZE;
constexpr int QUERY_BYTES = QUERY_ROWS * QUERY_PITCH, TILE_BYTES = TILE_TOKENS * CACHE_PITCH;
constexpr int PIPELINE_BYTES = NUM_STAGES * NUM_WARPS * 2 * TILE_BYTES;
constexpr int MERGE_BYTES = NUM_WARPS * QUERY_ROWS * (HEAD_DIM + 2) * sizeof(float);
constexpr int SHARED_BYTES = QUERY_BYTES + (PIPELINE_BYTES > MERGE_BYTES ? PIPELINE_BYTES : MERGE_BYTES);
// The query's fragments take HEAD_DIM / 4 registers. Large heads read them again for each tile instead.
constexpr bool QUERY_IN_REGISTERS = HEAD_DIM <= 128;
// Blocks that shall fit on a multiprocessor. Without it the compiler may aim higher, and spill.
constexpr int MIN_BLOCKS = HEAD_DIM <= 128 ? 3 : 2;

// One warp's tiles of a unit: the softmax and the sums over their keys.
OCTAVO_DEVICE void attend_tiles(const AttentionCall& call, const DecodeUnit& unit, const uint8* query_tile,
                                uint8* pipeline, RunningSoftmax& softmax, OutputSums& sums) {
  const int warp = threadIdx.x / WARP_SIZE, lane = threadIdx.x % WARP_SIZE;
  const TokenGather gather(call, unit.entry, unit.kv_head, unit.kv_end);
  const Scoring scoring(call, unit.kv_head);
  constexpr int STRIDE = NUM_WARPS * TILE_TOKENS;
  const int first_token = unit.kv_begin + warp * TILE_TOKENS;

  auto stage_tile = [&](int stage) { return pipeline + (stage * NUM_WARPS + warp) * 2 * TILE_BYTES; };
  int64 offset = gather.look_up(first_token + lane % TILE_TOKENS);
  int next_token = first_token, next_stage = 0;
  auto copy_next_tile = [&] {  // a group is closed even if it is empty: the waits count groups
    if (next_token < unit.kv_end) {
      uint8* tile = stage_tile(next_stage);
      TokenGather::copy<TILE_TOKENS>(tile, gather.keys, offset, lane);
      TokenGather::copy<TILE_TOKENS>(tile + TILE_BYTES, gather.values, offset, lane);
      next_token += STRIDE;
      next_stage = next_stage + 1 == NUM_STAGES ? 0 : next_stage + 1;
      offset = gather.look_up(next_token + lane % TILE_TOKENS);
    }
    commit_copies();
  };

#pragma unroll
  for (int stage = 0; stage < NUM_STAGES - 1; stage++) copy_next_tile();
  wait_for_copies<NUM_STAGES - 1>();
  __syncthreads();  // the query, which all threads copied, is there
  uint32 query[QUERY_IN_REGISTERS ? HEAD_DIM / 16 : 1][4];
  if constexpr (QUERY_IN_REGISTERS) {
#pragma unroll
    for (int step = 0; step < HEAD_DIM / 16; step++) load_query(query[step], query_tile, step, lane);
  }

  int stage = 0;
  for (int first = first_token; first < unit.kv_end; first += STRIDE) {
    copy_next_tile();
    wait_for_copies<NUM_STAGES - 1>();
    __syncwarp();  // what the other lanes copied is there too
    const uint8 *keys = stage_tile(stage), *values = keys + TILE_BYTES;
    float scores[2][4] = {};
#pragma unroll
    for (int step = 0; step < HEAD_DIM / 16; step++) {
      uint32 a[4], b[4];
      if constexpr (!QUERY_IN_REGISTERS) load_query(a, query_tile, step, lane);
      load_keys(b, keys, step, lane);
      const auto& rows = QUERY_IN_REGISTERS ? query[QUERY_IN_REGISTERS ? step : 0] : a;
      Product::mma(scores[0], rows, b[0], b[1]);
      Product::mma(scores[1], rows, b[2], b[3]);
    }
    scoring.apply(scores);
#pragma unroll
    for (int column = 0; column < 2; column++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int token = first + column * 8 + lane % 4 * 2 + i % 2;
        if (token >= unit.kv_end) scores[column][i] = -INFINITY;
      }
    }
    softmax.take(scores, sums);
    uint32 probabilities[4];
    pack_probabilities(probabilities, scores[0], scores[1]);
#pragma unroll
    for (int step = 0; step < HEAD_DIM / 16; step++) {
      uint32 b[4];
      load_values(b, values, step, lane);
      Product::mma(sums.columns[2 * step], probabilities, b[0], b[1]);
      Product::mma(sums.columns[2 * step + 1], probabilities, b[2], b[3]);
    }
    __syncwarp();  // every lane has read this tile: the next copies may overwrite it
    stage = stage + 1 == NUM_STAGES ? 0 : stage + 1;
  }
  wait_for_copies<0>();
}

// Joins the warps through shared memory, and writes the unit's result.
OCTAVO_DEVICE void merge_warps(const AttentionCall& call, const DecodeUnit& unit, float* shared,
                               const RunningSoftmax& softmax, const OutputSums& sums) {
  const int warp = threadIdx.x / WARP_SIZE, lane = threadIdx.x % WARP_SIZE;
  float *all_sums = shared, *all_highest = all_sums + NUM_WARPS * QUERY_ROWS * HEAD_DIM;
  float* all_totals = all_highest + NUM_WARPS * QUERY_ROWS;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int row = warp * QUERY_ROWS + lane / 4 + 8 * half;
    const float total = sum_of_row(softmax.total[half]);
    if (lane % 4 == 0) {
      all_highest[row] = softmax.highest[half];
      all_totals[row] = total;
    }
    sums.each_pair(half, lane, [&](int dimension, float value, float next) {
      *reinterpret_cast<float2*>(all_sums + row * HEAD_DIM + dimension) = make_float2(value, next);
    });
  }
  __syncthreads();

  const float scale = value_scale(call, unit.kv_head);
  for (int index = threadIdx.x; index < unit.num_rows * (HEAD_DIM / 2); index += NUM_THREADS) {
    const int row = index / (HEAD_DIM / 2), dimension = index % (HEAD_DIM / 2) * 2;
    const int head = unit.first_head + row;
    float highest = -INFINITY, total = 0.f, value = 0.f, next = 0.f;
#pragma unroll
    for (int other = 0; other < NUM_WARPS; other++) highest = max(highest, all_highest[other * QUERY_ROWS + row]);
#pragma unroll
    for (int other = 0; other < NUM_WARPS; other++) {
      const int other_row = other * QUERY_ROWS + row;
      const float base = highest == -INFINITY ? 0.f : highest;  // no warp saw a key: a window before these keys
      const float weight = exp2_approximate(all_highest[other_row] - base);
      total += weight * all_totals[other_row];
      value += weight * all_sums[other_row * HEAD_DIM + dimension];
      next += weight * all_sums[other_row * HEAD_DIM + dimension + 1];
    }
    const bool is_part = unit.slot >= 0;
    const Ending ending = end_softmax(highest, total, is_part ? -INFINITY : sink_of(call, head));
    value *= ending.factor * scale;
    next *= ending.factor * scale;
    const int64 result_row = static_cast<int64>(is_part ? unit.slot : unit.token) * call.num_heads + head;
    float* log_sums = is_part ? call.partial_log_sums : call.log_sums;
    if (log_sums && dimension == 0) log_sums[result_row] = ending.log_sum;
    const int64 element = result_row * HEAD_DIM + dimension;
    if (is_part) *reinterpret_cast<float2*>(call.partial_output + element) = make_float2(value, next);
    else *reinterpret_cast<uint32*>(static_cast<uint16*>(call.output) + element) = Query::pack(value, next);
  }
}

extern "C" __global__ void __launch_bounds__(NUM_THREADS, MIN_BLOCKS)
paged_decode(const __grid_constant__ AttentionCall call) {
  OCTAVO_SHARED(shared);
  uint8 *query_tile = shared, *pipeline = shared + QUERY_BYTES;
  const int num_units = *call.work.count * DecodeUnit::per_item(call);
  for (int index = blockIdx.x; index < num_units; index += gridDim.x) {
    const DecodeUnit unit(call, index);
    copy_query<NUM_THREADS>(call, unit, query_tile);
    RunningSoftmax softmax;
    OutputSums sums{};
    attend_tiles(call, unit, query_tile, pipeline, softmax, sums);
    __syncthreads();  // every warp is done with its tiles: their memory is free
    merge_warps(call, unit, reinterpret_cast<float*>(pipeline), softmax, sums);
    __syncthreads();  // and now with the merge's
  }
}
OCTAVO_KERNEL(paged_decode, NUM_THREADS, SHARED_BYTES)
