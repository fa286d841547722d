// What the attention kernels share.
//
//   AttentionCall       their one parameter: where everything lies
//   Query, Cache        the element types, and how a tile in shared memory becomes fragments of m16n8k16
//   TokenGather         starts the copies of some tokens' keys or values into a tile, page by page
//   Scoring             from a product to a score: scale, soft cap
//   RunningSoftmax      the softmax of scores that come tile by tile
//
// Compiled once for each HEAD_DIM, QUERY_TYPE and CACHE_TYPE. All scores and log-sum-exps are in units of log2, for
// ex2 is the instruction that GPUs have.
#pragma once
#include "elements.cuh"

// Which keys meet which queries, one item a column entry. octavo-core writes the lists into the arena of each step;
// the kernels read the counts from there too, so that a captured graph serves every step.
//
// An item of work is one request's queries against a range of its keys:
//   entry       of the columns row, query_start and seq_len
//   first_row   only for prefill: the item's first row, of (query token, query head of a group), tokens outermost
//   kv_begin    the keys from kv_begin to kv_end, clipped by causality and window
//   kv_end
//   slot        -1: these are all the keys, and the result is final. Otherwise the result of query token i of the entry
//               is a part, and goes to slot + i
// A query token whose keys are in several items has one entry in the list of merges:
//   token       row of the output
//   first_slot  its parts are in the slots first_slot, first_slot + slot_stride, … num_slots of them
//
// How they are made. Entries with one query token go to the list for decode, others to that for prefill, one item for
// each TILE_ROWS rows there. Where that is fewer units (items times KV heads) than blocks fit on the GPU, the keys are
// split: into the smallest chunk, a multiple of 64 and at least 128, for which all units fit at once. Decode is also
// split where that shortens a last round with few units, or a long item's tail. Long items come first, for blocks take
// them in order. Slots are numbered from 0 in each step.
struct WorkList {
  const int *count, *entry, *first_row, *kv_begin, *kv_end, *slot;
};
struct MergeList {
  const int *count, *token, *first_slot, *num_slots, *slot_stride;
};

// Mirrored by python/octavo/backends/cuda/arguments.py. H query heads, G KV heads, D = HEAD_DIM.
struct AttentionCall {
  const void* query;          // [tokens, query_stride], of which [H, D] are read
  void* output;               // [tokens, H, D], of the query's type
  const void *keys, *values;  // [blocks, page, G, D], by the strides below
  const float *key_scales, *value_scales;  // [G], for Float8: what a stored value is multiplied by; otherwise null
  const float* sinks;                      // [H]: a score that only adds to the softmax's denominator; or null
  float* log_sums;                         // [tokens, H]: log-sum-exp of each row, sink included; or null
  float* partial_output;                   // [slots, H, D]
  float* partial_log_sums;                 // [slots, H]
  const int* block_table;                  // [rows, table_stride]: blocks, in the order of their tokens
  const int *row, *query_start, *seq_len;  // of each entry: row of the table, first query token, tokens with the query
  WorkList work;
  MergeList merges;
  int64 query_stride, block_stride, token_stride, head_stride;  // elements; multiples of 16 bytes
  int num_heads, num_kv_heads, table_stride;
  int page_shift;   // log2 of a block's tokens
  int window;       // keys that a query sees, its own included; 0: all
  float scale;      // of the product
  float soft_cap;   // scores become cap · tanh(score / cap); 0: they stay
};

// ---- element types

using Query = QUERY_TYPE;
using Cache = CACHE_TYPE;
constexpr bool CACHE_IS_FP8 = SAME<Cache, Float8>;
using Product = Choose<CACHE_IS_FP8, Float16, Cache>::Type;  // e4m3 is exact in fp16
static_assert(CACHE_IS_FP8 || SAME<Query, Cache>, "queries and a 16-bit cache have one type");
static_assert(HEAD_DIM % 16 == 0, "a step of m16n8k16 is 16 dimensions");

// ---- tiles in shared memory: rows of a token or a query, in chunks of 16 bytes

constexpr int CHUNK = 16;

// Rows are an odd number of chunks apart. Eight rows of one column of chunks, which is what ldmatrix reads at once,
// then lie in the eight different groups of banks.
constexpr int tile_pitch(int row_bytes) { return (row_bytes / CHUNK | 1) * CHUNK; }

constexpr int QUERY_PITCH = tile_pitch(HEAD_DIM * 2);
constexpr int CACHE_ROW_BYTES = HEAD_DIM * sizeof(Cache::Storage);
constexpr int CACHE_PITCH = tile_pitch(CACHE_ROW_BYTES);

// The dimensions of step s are 16 s to 16 s + 15. A step needs pairs of neighbours along k. An e4m3 row, read as if it
// were 16-bit, gives a lane four neighbours 4 c to 4 c + 3 (c = lane mod 4) where the fragment wants 2 c, 2 c + 1,
// 2 c + 8 and 2 c + 9. The order along k is free as long as both sides keep it: the query's fragment does the same.

// A query beyond fp16's 65504 would become infinite; none comes near.
OCTAVO_DEVICE uint32 to_product(uint32 pair) {
  if constexpr (SAME<Query, Product>) return pair;
  else return Product::pack(Query::low(pair), Query::high(pair));
}

// a: 16 query rows, 16 dimensions.
OCTAVO_DEVICE void load_query(uint32 (&a)[4], const uint8* tile, int step, int lane) {
  if constexpr (CACHE_IS_FP8) {
    const uint8* upper = tile + lane / 4 * QUERY_PITCH + (step * 16 + lane % 4 * 4) * 2;
    const uint2 first = *reinterpret_cast<const uint2*>(upper);
    const uint2 second = *reinterpret_cast<const uint2*>(upper + 8 * QUERY_PITCH);
    a[0] = to_product(first.x);
    a[1] = to_product(second.x);
    a[2] = to_product(first.y);
    a[3] = to_product(second.y);
  } else {
    load_matrices(a, tile + lane % 16 * QUERY_PITCH + (step * 2 + lane / 16) * CHUNK);
  }
}

// b: 16 dimensions of 16 keys; b[0] and b[1] are the first eight keys, b[2] and b[3] the others.
OCTAVO_DEVICE void load_keys(uint32 (&b)[4], const uint8* tile, int step, int lane) {
  if constexpr (CACHE_IS_FP8) {
    uint32 keys[2];
    load_matrices(keys, tile + lane % 16 * CACHE_PITCH + step * CHUNK);
    for (int half = 0; half < 2; half++) {
      b[2 * half] = fp8_to_fp16(keys[half]);
      b[2 * half + 1] = fp8_to_fp16(keys[half] >> 16);
    }
  } else {
    load_matrices(b, tile + (lane % 8 + lane / 16 * 8) * CACHE_PITCH + (step * 2 + lane / 8 % 2) * CHUNK);
  }
}

// b: 16 values, 16 of their dimensions; b[0] and b[1] give the first eight columns of sums, b[2] and b[3] the others.
// These are the dimensions in order, and for e4m3 the even ones and then the odd ones: transposed in units of 16 bits,
// a lane has dimensions 2 r and 2 r + 1 (r = lane / 4) of the tokens 2 c and 2 c + 1.
OCTAVO_DEVICE void load_values(uint32 (&b)[4], const uint8* tile, int step, int lane) {
  if constexpr (CACHE_IS_FP8) {
    uint32 values[2];
    load_matrices_transposed(values, tile + lane % 16 * CACHE_PITCH + step * CHUNK);
    for (int half = 0; half < 2; half++) {
      b[half] = fp8_to_fp16(__byte_perm(values[half], 0, 0x4420));
      b[2 + half] = fp8_to_fp16(__byte_perm(values[half], 0, 0x4431));
    }
  } else {
    load_matrices_transposed(b, tile + lane % 16 * CACHE_PITCH + (step * 2 + lane / 16) * CHUNK);
  }
}

// What a warp has summed: 16 rows, all dimensions, as load_values ordered them. A lane has a part of two rows,
// lane / 4 and 8 more.
struct OutputSums {
  float columns[HEAD_DIM / 8][4];

  // Calls store(dimension, value, value of the next dimension) for all that the lane has of one of its rows.
  template <class Store>
  OCTAVO_DEVICE void each_pair(int half, int lane, Store store) const {
#pragma unroll
    for (int step = 0; step < HEAD_DIM / 16; step++) {
      const float* left = columns[2 * step] + 2 * half;
      const float* right = columns[2 * step + 1] + 2 * half;
      if constexpr (CACHE_IS_FP8) {
        store(step * 16 + lane % 4 * 4, left[0], right[0]);
        store(step * 16 + lane % 4 * 4 + 2, left[1], right[1]);
      } else {
        store(step * 16 + lane % 4 * 2, left[0], left[1]);
        store(step * 16 + lane % 4 * 2 + 8, right[0], right[1]);
      }
    }
  }
};

// ---- the paged cache

// Lane i of a warp looks up where token first + i lies, a tile before its copies start, so that the table's latency
// hides behind a tile of products.
struct TokenGather {
  const uint8 *keys, *values;  // of one KV head
  const int* table;            // of one row
  int64 block_bytes, token_bytes;
  int page_shift, end;

  OCTAVO_DEVICE TokenGather(const AttentionCall& call, int entry, int kv_head, int kv_end) {
    constexpr int BYTES = sizeof(Cache::Storage);
    keys = static_cast<const uint8*>(call.keys) + kv_head * call.head_stride * BYTES;
    values = static_cast<const uint8*>(call.values) + kv_head * call.head_stride * BYTES;
    table = call.block_table + static_cast<int64>(call.row[entry]) * call.table_stride;
    block_bytes = call.block_stride * BYTES;
    token_bytes = call.token_stride * BYTES;
    page_shift = call.page_shift;
    end = kv_end;
  }

  // Bytes from the head's first token; -1 where there is no token.
  OCTAVO_DEVICE int64 look_up(int token) const {
    if (token >= end) return -1;
    const int in_page = token & ((1 << page_shift) - 1);
    return __ldg(table + (token >> page_shift)) * block_bytes + in_page * token_bytes;
  }

  // Starts the copies of NUM_TOKENS tokens, of which lane i knows where token i lies. Rows without a token become
  // zeros: their probability is zero, and zero times what was there before could be NaN.
  template <int NUM_TOKENS>
  OCTAVO_DEVICE static void copy(uint8* tile, const uint8* source, int64 offset, int lane) {
    constexpr int ROW_CHUNKS = CACHE_ROW_BYTES / CHUNK, NUM_CHUNKS = NUM_TOKENS * ROW_CHUNKS;
#pragma unroll
    for (int first = 0; first < NUM_CHUNKS; first += WARP_SIZE) {
      const int index = first + lane, token = index / ROW_CHUNKS, chunk = index % ROW_CHUNKS;
      const int64 token_offset = __shfl_sync(ALL_LANES, offset, token);
      const bool valid = token_offset >= 0;
      const uint8* from = source + (valid ? token_offset : 0) + chunk * CHUNK;
      if (index < NUM_CHUNKS) copy_async<CHUNK>(tile + token * CACHE_PITCH + chunk * CHUNK, from, valid);
    }
  }
};

// ---- scores and softmax

constexpr float LOG2_E = 1.44269504f;

class Scoring {
  float to_log2, soft_cap;

 public:
  OCTAVO_DEVICE Scoring(const AttentionCall& call, int kv_head) {
    const float scale = call.scale * (CACHE_IS_FP8 ? call.key_scales[kv_head] : 1.f);
    soft_cap = call.soft_cap;
    // tanh(x) = 1 - 2 / (1 + e^2x): accurate to 1e-7, where tanh.approx would cost 2% of a probability at a cap of 50.
    to_log2 = soft_cap > 0 ? 2 * LOG2_E * scale / soft_cap : LOG2_E * scale;
  }

  // Products become scores. The cap is decided once for a tile, not once for a number.
  template <int NUM_COLUMNS>
  OCTAVO_DEVICE void apply(float (&products)[NUM_COLUMNS][4]) const {
    if (soft_cap > 0) {
      const float cap = LOG2_E * soft_cap;
      each(products, [&](float product) {
        return cap - 2 * cap * reciprocal_approximate(1.f + exp2_approximate(product * to_log2));
      });
    } else {
      each(products, [&](float product) { return product * to_log2; });
    }
  }

 private:
  template <int NUM_COLUMNS, class Function>
  OCTAVO_DEVICE static void each(float (&numbers)[NUM_COLUMNS][4], Function function) {
#pragma unroll
    for (int column = 0; column < NUM_COLUMNS; column++)
#pragma unroll
      for (int i = 0; i < 4; i++) numbers[column][i] = function(numbers[column][i]);
  }
};

// One more term of the denominator, or none.
OCTAVO_DEVICE float sink_of(const AttentionCall& call, int head) {
  return call.sinks ? call.sinks[head] * LOG2_E : -INFINITY;
}

struct Ending {
  float factor;   // what the sums are multiplied by
  float log_sum;  // -infinity where there was no key
};

OCTAVO_DEVICE Ending end_softmax(float highest, float total, float sink) {
  const float top = max(highest, sink);
  if (top == -INFINITY) return {0.f, -INFINITY};
  const float factor = exp2_approximate(highest - top);
  const float denominator = total * factor + exp2_approximate(sink - top);
  return {factor * reciprocal_approximate(denominator), top + log2_approximate(denominator)};
}

// The sum over the four lanes that share a row.
OCTAVO_DEVICE float sum_of_row(float value) {
  value += __shfl_xor_sync(ALL_LANES, value, 1);
  return value + __shfl_xor_sync(ALL_LANES, value, 2);
}

OCTAVO_DEVICE float maximum_of_row(float value) {
  value = max(value, __shfl_xor_sync(ALL_LANES, value, 1));
  return max(value, __shfl_xor_sync(ALL_LANES, value, 2));
}

// Of the two rows that a lane has a part of. `total` is the lane's own part, for it is needed only at the end.
struct RunningSoftmax {
  float highest[2] = {-INFINITY, -INFINITY}, total[2] = {0.f, 0.f};

  // Turns the scores of NUM_COLUMNS · 8 keys into probabilities, up to the factor that comes at the end, and scales
  // what was summed before to the new maximum.
  template <int NUM_COLUMNS>
  OCTAVO_DEVICE void take(float (&scores)[NUM_COLUMNS][4], OutputSums& sums) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float new_highest = highest[half];
#pragma unroll
      for (int column = 0; column < NUM_COLUMNS; column++)
        new_highest = max(new_highest, max(scores[column][2 * half], scores[column][2 * half + 1]));
      new_highest = maximum_of_row(new_highest);
      // Until a first key is seen, all is -infinity, and the difference of two would be NaN.
      const float base = new_highest == -INFINITY ? 0.f : new_highest;
      const float rescale = exp2_approximate(highest[half] - base);
      highest[half] = new_highest;
      float tile_total = 0.f;
#pragma unroll
      for (int column = 0; column < NUM_COLUMNS; column++) {
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; i++) {
          scores[column][i] = exp2_approximate(scores[column][i] - base);
          tile_total += scores[column][i];
        }
      }
      total[half] = total[half] * rescale + tile_total;
#pragma unroll
      for (int column = 0; column < HEAD_DIM / 8; column++) {
        sums.columns[column][2 * half] *= rescale;
        sums.columns[column][2 * half + 1] *= rescale;
      }
    }
  }
};

// The fragment a of 16 probabilities, from two columns of m16n8k16's sums: where a lane has sums is where it needs a.
OCTAVO_DEVICE void pack_probabilities(uint32 (&a)[4], const float (&first)[4], const float (&second)[4]) {
  a[0] = Product::pack(first[0], first[1]);
  a[1] = Product::pack(first[2], first[3]);
  a[2] = Product::pack(second[0], second[1]);
  a[3] = Product::pack(second[2], second[3]);
}

OCTAVO_DEVICE float value_scale(const AttentionCall& call, int kv_head) {
  return CACHE_IS_FP8 ? call.value_scales[kv_head] : 1.f;
}
