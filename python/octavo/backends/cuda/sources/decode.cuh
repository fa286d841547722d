// What the kernels share that decode: one query token of each request.
//
//   DecodeUnit   an item of the list, one KV head, and up to 16 of the query heads that share it
//   copy_query   starts the copies of a unit's queries
#pragma once
#include "attention.cuh"

constexpr int QUERY_ROWS = 16;  // of m16n8k16

struct DecodeUnit {
  int entry, token, kv_head, first_head, num_rows;  // the rows are the query heads from first_head on
  int kv_begin, kv_end, slot;

  OCTAVO_DEVICE static int per_item(const AttentionCall& call) {
    const int group = call.num_heads / call.num_kv_heads;
    return call.num_kv_heads * ((group + QUERY_ROWS - 1) / QUERY_ROWS);
  }

  OCTAVO_DEVICE DecodeUnit(const AttentionCall& call, int unit) {
    const int group = call.num_heads / call.num_kv_heads;
    const int item = unit / per_item(call), within = unit % per_item(call);
    const int first_of_group = within / call.num_kv_heads * QUERY_ROWS;
    entry = call.work.entry[item];
    token = call.query_start[entry];
    kv_head = within % call.num_kv_heads;
    first_head = kv_head * group + first_of_group;
    num_rows = min(QUERY_ROWS, group - first_of_group);
    kv_begin = call.work.kv_begin[item];
    kv_end = call.work.kv_end[item];
    if (call.window > 0) kv_begin = max(kv_begin, call.seq_len[entry] - call.window);
    slot = call.work.slot[item];
  }
};

template <int NUM_THREADS>
OCTAVO_DEVICE void copy_query(const AttentionCall& call, const DecodeUnit& unit, uint8* tile) {
  constexpr int ROW_CHUNKS = HEAD_DIM * 2 / CHUNK;
  const uint8* query = static_cast<const uint8*>(call.query) +
                       (unit.token * call.query_stride + static_cast<int64>(unit.first_head) * HEAD_DIM) * 2;
  for (int index = threadIdx.x; index < QUERY_ROWS * ROW_CHUNKS; index += NUM_THREADS) {
    const int row = index / ROW_CHUNKS, chunk = index % ROW_CHUNKS;
    const bool valid = row < unit.num_rows;
    const uint8* from = query + ((valid ? row : 0) * ROW_CHUNKS + chunk) * CHUNK;
    copy_async<CHUNK>(tile + row * QUERY_PITCH + chunk * CHUNK, from, valid);
  }
  commit_copies();  // the first group: the tiles' come after it
}
