// Causal attention of several query tokens of each request, over keys and values in pages: whole prompts, chunks of a
// prompt with its beginning in the cache, and the tokens of a draft that is verified.
//
// The query tokens of an entry are its last ones; the cache holds their keys already. A unit of work is one item of the
// list (attention.cuh: WorkList) and one KV head. Its TILE_ROWS rows are pairs of a query token and a query head of the
// group, tokens outermost, so that every key that is read meets all the heads that share it, and short queries fill
// the rows of m16n8k16 too. Each warp has its own rows; all warps share the tiles of KV_TILE keys, which pass by once.
//
// Keys and values of a tile are waited for apart: while the scores of a tile are computed, its values are still on
// their way, and the keys of the next tile already.
//
// The grid is as many blocks as the GPU holds, whatever the step: each takes every gridDim.x'th unit.
#include "attention.cuh"

// How many tiles of 16 rows a warp has, and how many keys pass by at once, within 255 registers and 99 KB of shared
// memory. Two tiles of rows halve the reading of shared memory, which is as busy as the tensor cores with one.
#ifndef ROW_TILES
#define ROW_TILES (HEAD_DIM <= 128 ? 2 : 1)
#endif
#ifndef KV_TILE
#define KV_TILE (HEAD_DIM <= 64 ? 64 : 32)
#endif

constexpr int NUM_WARPS = 4, NUM_THREADS = NUM_WARPS * WARP_SIZE;
constexpr int WARP_ROWS = ROW_TILES * 16, TILE_ROWS = NUM_WARPS * WARP_ROWS;
constexpr int WARP_TOKENS = KV_TILE / NUM_WARPS;  // whose copies a warp starts
constexpr int QUERY_BYTES = TILE_ROWS * QUERY_PITCH, TILE_BYTES = KV_TILE * CACHE_PITCH;
constexpr int SHARED_BYTES = QUERY_BYTES + 4 * TILE_BYTES;
constexpr int ROW_CHUNKS = HEAD_DIM * 2 / CHUNK;  // of queries and output
// Blocks that shall fit on a multiprocessor. Without it the compiler may aim higher, and spill.
constexpr int MIN_BLOCKS = ROW_TILES == 1 && HEAD_DIM <= 128 ? 3 : 2;
static_assert(KV_TILE % 16 == 0 && WARP_TOKENS <= WARP_SIZE, "a tile is whole steps, and a lane looks up one token");

struct PrefillUnit {
  int entry, kv_head, group, slot;
  int first_token, num_rows;       // of the entry, in the query
  int first_row, first_position;   // of the tile, and where its first row's token stands in the sequence
  int last_position;               // where its last row's does
  int kv_begin, kv_end, window;

  OCTAVO_DEVICE PrefillUnit(const AttentionCall& call, int unit) {
    const int item = unit / call.num_kv_heads;
    entry = call.work.entry[item];
    kv_head = unit % call.num_kv_heads;
    group = call.num_heads / call.num_kv_heads;
    slot = call.work.slot[item];
    first_token = call.query_start[entry];
    const int num_tokens = call.query_start[entry + 1] - first_token;
    num_rows = num_tokens * group;
    first_row = call.work.first_row[item];
    const int context = call.seq_len[entry] - num_tokens;
    first_position = context + first_row / group;
    last_position = context + (min(first_row + TILE_ROWS, num_rows) - 1) / group;
    window = call.window;
    kv_begin = call.work.kv_begin[item];
    if (window > 0) kv_begin = max(kv_begin, first_position - window + 1);
    kv_end = min(call.work.kv_end[item], last_position + 1);
  }

  OCTAVO_DEVICE int position(int row) const { return first_position + (first_row % group + row) / group; }
  // Of a row of the tile: its query token, and its query head.
  OCTAVO_DEVICE int token(int row) const { return first_token + (first_row + row) / group; }
  OCTAVO_DEVICE int head(int row) const { return kv_head * group + (first_row + row) % group; }
  OCTAVO_DEVICE bool has(int row) const { return first_row + row < num_rows; }

  // Whether every row sees every key of the tile that starts at `first_key`.
  OCTAVO_DEVICE bool sees_all(int first_key) const {
    const int last_key = first_key + KV_TILE - 1;
    return last_key < kv_end && last_key <= first_position && (window <= 0 || first_key > last_position - window);
  }
};

OCTAVO_DEVICE void copy_query(const AttentionCall& call, const PrefillUnit& unit, uint8* tile) {
  for (int index = threadIdx.x; index < TILE_ROWS * ROW_CHUNKS; index += NUM_THREADS) {
    const int row = index / ROW_CHUNKS, chunk = index % ROW_CHUNKS, valid_row = unit.has(row) ? row : 0;
    const uint8* query = static_cast<const uint8*>(call.query) + unit.token(valid_row) * call.query_stride * 2 +
                         (unit.head(valid_row) * ROW_CHUNKS + chunk) * CHUNK;
    copy_async<CHUNK>(tile + row * QUERY_PITCH + chunk * CHUNK, query, unit.has(row));
  }
  commit_copies();
}

// A warp's rows against a tile of keys.
OCTAVO_DEVICE void multiply_keys(float (&scores)[ROW_TILES][KV_TILE / 8][4], const uint8* query, const uint8* keys,
                                 int lane) {
#pragma unroll
  for (int step = 0; step < HEAD_DIM / 16; step++) {
    uint32 a[ROW_TILES][4];
#pragma unroll
    for (int tile = 0; tile < ROW_TILES; tile++) load_query(a[tile], query + tile * 16 * QUERY_PITCH, step, lane);
#pragma unroll
    for (int pair = 0; pair < KV_TILE / 16; pair++) {
      uint32 b[4];
      load_keys(b, keys + pair * 16 * CACHE_PITCH, step, lane);
#pragma unroll
      for (int tile = 0; tile < ROW_TILES; tile++) {
        Product::mma(scores[tile][2 * pair], a[tile], b[0], b[1]);
        Product::mma(scores[tile][2 * pair + 1], a[tile], b[2], b[3]);
      }
    }
  }
}

// A warp's probabilities against a tile of values.
OCTAVO_DEVICE void multiply_values(OutputSums (&sums)[ROW_TILES], const float (&scores)[ROW_TILES][KV_TILE / 8][4],
                                   const uint8* values, int lane) {
#pragma unroll
  for (int pair = 0; pair < KV_TILE / 16; pair++) {
    uint32 a[ROW_TILES][4];
#pragma unroll
    for (int tile = 0; tile < ROW_TILES; tile++)
      pack_probabilities(a[tile], scores[tile][2 * pair], scores[tile][2 * pair + 1]);
#pragma unroll
    for (int step = 0; step < HEAD_DIM / 16; step++) {
      uint32 b[4];
      load_values(b, values + pair * 16 * CACHE_PITCH, step, lane);
#pragma unroll
      for (int tile = 0; tile < ROW_TILES; tile++) {
        Product::mma(sums[tile].columns[2 * step], a[tile], b[0], b[1]);
        Product::mma(sums[tile].columns[2 * step + 1], a[tile], b[2], b[3]);
      }
    }
  }
}

// Products become scores; what a row does not see becomes -infinity.
OCTAVO_DEVICE void score(float (&scores)[ROW_TILES][KV_TILE / 8][4], const PrefillUnit& unit, const Scoring& scoring,
                         int first_key, int warp_row, int lane) {
#pragma unroll
  for (int tile = 0; tile < ROW_TILES; tile++) scoring.apply(scores[tile]);
  if (unit.sees_all(first_key)) return;
#pragma unroll
  for (int tile = 0; tile < ROW_TILES; tile++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int position = unit.position(warp_row + tile * 16 + lane / 4 + 8 * half);
      const int end = min(unit.kv_end, position + 1), begin = unit.window > 0 ? position - unit.window + 1 : 0;
#pragma unroll
      for (int column = 0; column < KV_TILE / 8; column++) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
          const int key = first_key + column * 8 + lane % 4 * 2 + i;
          if (key < begin || key >= end) scores[tile][column][2 * half + i] = -INFINITY;
        }
      }
    }
  }
}

// A part goes to its slot from the registers. A final result goes through the memory of the query's tile, where the
// warp alone has its rows, such that whole chunks are written.
OCTAVO_DEVICE void write_result(const AttentionCall& call, const PrefillUnit& unit, uint8* rows, int warp_row, int lane,
                                const RunningSoftmax (&softmax)[ROW_TILES], const OutputSums (&sums)[ROW_TILES]) {
  const bool is_part = unit.slot >= 0;
  const float scale = value_scale(call, unit.kv_head);
#pragma unroll
  for (int tile = 0; tile < ROW_TILES; tile++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int local_row = tile * 16 + lane / 4 + 8 * half, row = warp_row + local_row;
      const float total = sum_of_row(softmax[tile].total[half]);
      if (!unit.has(row)) continue;
      const int head = unit.head(row), token = unit.token(row);
      const Ending ending =
          end_softmax(softmax[tile].highest[half], total, is_part ? -INFINITY : sink_of(call, head));
      const float factor = ending.factor * scale;
      const int result_token = is_part ? unit.slot + token - unit.first_token : token;
      const int64 result_row = static_cast<int64>(result_token) * call.num_heads + head;
      float* log_sums = is_part ? call.partial_log_sums : call.log_sums;
      if (log_sums && lane % 4 == 0) log_sums[result_row] = ending.log_sum;
      float* part = call.partial_output + result_row * HEAD_DIM;
      sums[tile].each_pair(half, lane, [&](int dimension, float value, float next) {
        if (is_part)
          *reinterpret_cast<float2*>(part + dimension) = make_float2(value * factor, next * factor);
        else
          *reinterpret_cast<uint32*>(rows + local_row * QUERY_PITCH + dimension * 2) =
              Query::pack(value * factor, next * factor);
      });
    }
  }
  if (is_part) return;
  __syncwarp();
  for (int index = lane; index < WARP_ROWS * ROW_CHUNKS; index += WARP_SIZE) {
    const int local_row = index / ROW_CHUNKS, chunk = index % ROW_CHUNKS, row = warp_row + local_row;
    if (!unit.has(row)) break;
    const int64 result_row = static_cast<int64>(unit.token(row)) * call.num_heads + unit.head(row);
    *reinterpret_cast<uint4*>(static_cast<uint8*>(call.output) + (result_row * ROW_CHUNKS + chunk) * CHUNK) =
        *reinterpret_cast<const uint4*>(rows + local_row * QUERY_PITCH + chunk * CHUNK);
  }
}

OCTAVO_DEVICE void attend(const AttentionCall& call, const PrefillUnit& unit, uint8* shared) {
  const int warp = threadIdx.x / WARP_SIZE, lane = threadIdx.x % WARP_SIZE, warp_row = warp * WARP_ROWS;
  uint8 *keys = shared + QUERY_BYTES, *values = keys + 2 * TILE_BYTES;  // two stages of each
  uint8* query = shared + warp_row * QUERY_PITCH;
  const TokenGather gather(call, unit.entry, unit.kv_head, unit.kv_end);
  const Scoring scoring(call, unit.kv_head);
  RunningSoftmax softmax[ROW_TILES];
  OutputSums sums[ROW_TILES] = {};

  const int warp_token = warp * WARP_TOKENS;  // of a tile, the first whose copies this warp starts
  auto look_up = [&](int first_key) { return gather.look_up(first_key + warp_token + lane % WARP_TOKENS); };
  auto copy_tile = [&](uint8* stages, int stage, const uint8* source, int64 offset, bool wanted) {
    uint8* tile = stages + stage * TILE_BYTES + warp_token * CACHE_PITCH;
    if (wanted) TokenGather::copy<WARP_TOKENS>(tile, source, offset, lane);
    commit_copies();  // even if it is empty: the waits count groups
  };

  copy_query(call, unit, shared);
  int64 offset = look_up(unit.kv_begin);
  copy_tile(keys, 0, gather.keys, offset, true);
  copy_tile(values, 0, gather.values, offset, true);
  offset = look_up(unit.kv_begin + KV_TILE);
  int stage = 0;
  for (int first_key = unit.kv_begin; first_key < unit.kv_end; first_key += KV_TILE) {
    const bool more = first_key + KV_TILE < unit.kv_end;
    wait_for_copies<1>();  // all but this tile's values
    __syncthreads();       // its keys are there; nobody reads the other stage of keys any more
    copy_tile(keys, stage ^ 1, gather.keys, offset, more);
    float scores[ROW_TILES][KV_TILE / 8][4] = {};
    multiply_keys(scores, query, keys + stage * TILE_BYTES, lane);
    score(scores, unit, scoring, first_key, warp_row, lane);
#pragma unroll
    for (int tile = 0; tile < ROW_TILES; tile++) softmax[tile].take(scores[tile], sums[tile]);
    wait_for_copies<1>();  // all but the next tile's keys
    __syncthreads();       // its values are there; nobody reads the other stage of values any more
    copy_tile(values, stage ^ 1, gather.values, offset, more);
    offset = look_up(first_key + 2 * KV_TILE);
    multiply_values(sums, scores, values + stage * TILE_BYTES, lane);
    stage ^= 1;
  }
  wait_for_copies<0>();
  write_result(call, unit, query, warp_row, lane, softmax, sums);
}

extern "C" __global__ void __launch_bounds__(NUM_THREADS, MIN_BLOCKS)
paged_prefill(const __grid_constant__ AttentionCall call) {
  OCTAVO_SHARED(shared);
  const int num_units = *call.work.count * call.num_kv_heads;
  for (int index = blockIdx.x; index < num_units; index += gridDim.x) {
    attend(call, PrefillUnit(call, index), shared);
    __syncthreads();  // every warp is done with this unit's memory
  }
}
OCTAVO_KERNEL(paged_prefill, NUM_THREADS, SHARED_BYTES)
OCTAVO_CONSTANT(prefill_tile_rows, TILE_ROWS)
