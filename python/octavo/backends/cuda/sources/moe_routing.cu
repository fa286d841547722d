// A mixture of experts around its products (moe.cuh): who goes where, and the sum at the end.
//
//   route_tokens      scores to the top_k experts of a token, and their weights
//   sort_pairs        the pairs of each expert, in tiles
//   combine_experts   the weighted sum of a token's pairs
//
// Nothing depends on the order in which threads come: equal scores go to the lower expert, pairs of an expert are in
// order, and sums are in the order of the places.
#include "keys.cuh"
#include "moe.cuh"

constexpr int NUM_WARPS = 8, NUM_THREADS = NUM_WARPS * WARP_SIZE;
constexpr int MOST_EXPERTS = 512;
constexpr int EXPERTS_PER_LANE = MOST_EXPERTS / WARP_SIZE;

// ---- routing

// Mirrored by python/octavo/backends/cuda/arguments.py.
enum Scoring { SOFTMAX = 0, SIGMOID = 1 };

struct RouteCall {
  const void* logits;     // [tokens, logits_stride], of which num_experts are read
  const float* bias;      // [num_experts]: added to a score where experts are compared, not to its weight; or null
  int* experts;           // [tokens, top_k], best first
  float* weights;         // [tokens, top_k]
  const int* num_tokens;  // one number: the step's
  int64 logits_stride;    // elements
  int num_experts;        // at most 512
  int top_k;              // at most 32
  int scoring;            // of Scoring
  int renormalise;        // 1: the weights of a token sum to `scale`
  int num_groups;         // of neighbouring experts, at most 32; only the best top_groups of a token's are open to it
  int top_groups;         // num_groups: all
  float scale;            // of the weights
};

OCTAVO_DEVICE float sum_of_warp(float value) {
#pragma unroll
  for (int distance = WARP_SIZE / 2; distance > 0; distance /= 2)
    value += __shfl_xor_sync(ALL_LANES, value, distance);
  return value;
}

// Of one token: a lane has every 32nd expert.
struct Scores {
  float score[EXPERTS_PER_LANE];
  uint32 key[EXPERTS_PER_LANE];  // of what is compared; 0: not open

  OCTAVO_DEVICE Scores(const RouteCall& call, int token) {
    const auto* logits = static_cast<const Element::Storage*>(call.logits) + token * call.logits_stride;
    const int lane = threadIdx.x % WARP_SIZE;
    uint64 best = 0;
#pragma unroll
    for (int i = 0; i < EXPERTS_PER_LANE; i++) {
      const int expert = i * WARP_SIZE + lane;
      score[i] = expert < call.num_experts ? to_float<Element>(__ldg(logits + expert)) : -INFINITY;
      best = max(best, ranked(key_of(score[i]), expert));
    }
    if (call.scoring == SIGMOID) {
#pragma unroll
      for (int i = 0; i < EXPERTS_PER_LANE; i++) score[i] = 1.f / (1.f + expf(-score[i]));
    } else {
      const float largest = number_of(key_of_ranked(best_of_warp(best)));
      float sum = 0;
#pragma unroll
      for (int i = 0; i < EXPERTS_PER_LANE; i++) {
        score[i] = expf(score[i] - largest);
        sum += score[i];
      }
      sum = sum_of_warp(sum);
#pragma unroll
      for (int i = 0; i < EXPERTS_PER_LANE; i++) score[i] /= sum;
    }
#pragma unroll
    for (int i = 0; i < EXPERTS_PER_LANE; i++) {
      const int expert = i * WARP_SIZE + lane;
      if (expert >= call.num_experts) key[i] = 0;
      else key[i] = key_of(call.bias ? score[i] + __ldg(call.bias + expert) : score[i]);
    }
  }

  // As DeepSeek-V2 and V3 compare groups: by their best expert, or with a bias by the sum of their two best.
  OCTAVO_DEVICE void close_groups(const RouteCall& call) {
    const int lane = threadIdx.x % WARP_SIZE, group_size = call.num_experts / call.num_groups;
    uint32 own_key = 0;
    for (int group = 0; group < call.num_groups; group++) {
      uint64 first = 0, second = 0;
#pragma unroll
      for (int i = 0; i < EXPERTS_PER_LANE; i++) {
        const int expert = i * WARP_SIZE + lane;
        if (expert / group_size == group) take(ranked(key[i], expert), first, second);
      }
#pragma unroll
      for (int distance = WARP_SIZE / 2; distance > 0; distance /= 2) {
        const uint64 other_first = __shfl_xor_sync(ALL_LANES, first, distance);
        const uint64 other_second = __shfl_xor_sync(ALL_LANES, second, distance);
        take(other_first, first, second);
        take(other_second, first, second);
      }
      const float best = number_of(key_of_ranked(first));
      if (lane == group) own_key = call.bias && second ? key_of(best + number_of(key_of_ranked(second))) : key_of(best);
    }
    int place = 0;
    for (int group = 0; group < call.num_groups; group++) {
      const uint32 other = __shfl_sync(ALL_LANES, own_key, group);
      place += other > own_key || (other == own_key && group < lane);
    }
    const uint32 open = __ballot_sync(ALL_LANES, lane < call.num_groups && place < call.top_groups);
#pragma unroll
    for (int i = 0; i < EXPERTS_PER_LANE; i++) {
      const int expert = i * WARP_SIZE + lane;
      if (expert < call.num_experts && !(open >> expert / group_size & 1)) key[i] = 0;
    }
  }

 private:
  OCTAVO_DEVICE static void take(uint64 candidate, uint64& first, uint64& second) {
    second = max(second, min(first, candidate));
    first = max(first, candidate);
  }
};

extern "C" __global__ void __launch_bounds__(NUM_THREADS, 1) route_tokens(const __grid_constant__ RouteCall call) {
  const int warp = blockIdx.x * NUM_WARPS + threadIdx.x / WARP_SIZE, lane = threadIdx.x % WARP_SIZE;
  const int num_tokens = *call.num_tokens;
  for (int token = warp; token < num_tokens; token += gridDim.x * NUM_WARPS) {
    Scores scores(call, token);
    if (call.top_groups < call.num_groups) scores.close_groups(call);
    int chosen = 0;
    float weight = 0;  // of this lane's place
    for (int place = 0; place < call.top_k; place++) {
      uint64 best = 0;
#pragma unroll
      for (int i = 0; i < EXPERTS_PER_LANE; i++) best = max(best, ranked(scores.key[i], i * WARP_SIZE + lane));
      const int expert = index_of_ranked(best_of_warp(best));
      float score = 0;
#pragma unroll
      for (int i = 0; i < EXPERTS_PER_LANE; i++) {
        if (expert != i * WARP_SIZE + lane) continue;
        score = scores.score[i];
        scores.key[i] = 0;
      }
      score = __shfl_sync(ALL_LANES, score, expert % WARP_SIZE);
      if (lane == place) chosen = expert, weight = score;
    }
    // A token without any weight, all of whose scores have become 0, keeps none.
    const float sum = sum_of_warp(weight);
    if (call.renormalise && sum > 0) weight /= sum;
    if (lane < call.top_k) {
      call.experts[static_cast<int64>(token) * call.top_k + lane] = chosen;
      call.weights[static_cast<int64>(token) * call.top_k + lane] = weight * call.scale;
    }
  }
}
OCTAVO_KERNEL(route_tokens, NUM_THREADS, 0)

// ---- sorting

// Mirrored by python/octavo/backends/cuda/arguments.py.
struct SortCall {
  const int* experts;     // [tokens, top_k]; pairs of experts outside of 0 to num_experts - 1 are left out
  const int* num_tokens;  // one number: the step's
  ExpertTiles tiles;
  int num_experts;  // at most 512
  int top_k;
};

// Each block counts all pairs, and then each warp of the grid finds those of some experts, by votes of its lanes.
extern "C" __global__ void __launch_bounds__(NUM_THREADS) sort_pairs(const __grid_constant__ SortCall call) {
  OCTAVO_SHARED(shared);
  int* counts = reinterpret_cast<int*>(shared);
  const int lane = threadIdx.x % WARP_SIZE, num_pairs = *call.num_tokens * call.top_k;
  for (int expert = threadIdx.x; expert < call.num_experts; expert += NUM_THREADS) counts[expert] = 0;
  __syncthreads();  // the counts are zero
  for (int pair = threadIdx.x; pair < num_pairs; pair += NUM_THREADS) {
    const int expert = __ldg(call.experts + pair);
    if (expert >= 0 && expert < call.num_experts) atomicAdd(counts + expert, 1);
  }
  __syncthreads();  // all are counted

  const int warp = blockIdx.x * NUM_WARPS + threadIdx.x / WARP_SIZE;
  auto tiles_of = [&](int expert) { return (counts[expert] + TILE_ROWS - 1) / TILE_ROWS; };
  auto tiles_before = [&](int end) {
    int tiles = 0;
    for (int expert = lane; expert < end; expert += WARP_SIZE) tiles += tiles_of(expert);
#pragma unroll
    for (int distance = WARP_SIZE / 2; distance > 0; distance /= 2)
      tiles += __shfl_xor_sync(ALL_LANES, tiles, distance);
    return tiles;
  };
  for (int expert = warp; expert < call.num_experts; expert += gridDim.x * NUM_WARPS) {
    const int first_tile = tiles_before(expert), num_tiles = tiles_of(expert);
    int* pairs = call.tiles.pair + static_cast<int64>(first_tile) * TILE_ROWS;
    int found = 0;
    for (int first = 0; found < counts[expert]; first += WARP_SIZE) {
      const int pair = first + lane;
      const bool is_here = pair < num_pairs && __ldg(call.experts + pair) == expert;
      const uint32 votes = __ballot_sync(ALL_LANES, is_here);
      if (is_here) pairs[found + __popc(votes & ((1u << lane) - 1))] = pair;
      found += __popc(votes);
    }
    for (int row = found + lane; row < num_tiles * TILE_ROWS; row += WARP_SIZE) pairs[row] = -1;
    for (int tile = lane; tile < num_tiles; tile += WARP_SIZE) call.tiles.expert[first_tile + tile] = expert;
  }
  if (warp == 0) {
    const int num_tiles = tiles_before(call.num_experts);
    if (lane == 0) *call.tiles.num_tiles = num_tiles;
  }
}
OCTAVO_KERNEL(sort_pairs, NUM_THREADS, MOST_EXPERTS * sizeof(int))
OCTAVO_CONSTANT(moe_tile_rows, TILE_ROWS)

// ---- the sum

// Mirrored by python/octavo/backends/cuda/arguments.py.
struct CombineCall {
  const void* pairs;      // [pairs, hidden_size]: what the experts made of them
  const int* experts;     // [tokens, top_k]; pairs of experts outside of 0 to num_experts - 1 add nothing
  const float* weights;   // [tokens, top_k]
  const void* shared;     // [tokens, out_stride]: added as it is, for an expert of all tokens; or null. May be out
  void* out;              // [tokens, out_stride], of which hidden_size are written
  const int* num_tokens;  // one number: the step's
  int64 out_stride;       // elements; a multiple of 8
  int num_experts, top_k;
  int hidden_size;  // a multiple of 8
};

extern "C" __global__ void __launch_bounds__(NUM_THREADS) combine_experts(const __grid_constant__ CombineCall call) {
  constexpr int CHUNK = 8;  // elements
  const int num_chunks = call.hidden_size / CHUNK;
  const int64 num_units = static_cast<int64>(*call.num_tokens) * num_chunks;
  const auto* pairs = static_cast<const Element::Storage*>(call.pairs);
  const auto* shared = static_cast<const Element::Storage*>(call.shared);
  auto* out = static_cast<Element::Storage*>(call.out);
  for (int64 unit = blockIdx.x * NUM_THREADS + static_cast<int>(threadIdx.x); unit < num_units;
       unit += gridDim.x * NUM_THREADS) {
    const int64 token = unit / num_chunks;
    const int column = static_cast<int>(unit % num_chunks) * CHUNK;
    float sums[CHUNK] = {};
    if (shared) load<Element>(sums, shared + token * call.out_stride + column);
    for (int place = 0; place < call.top_k; place++) {
      const int64 pair = token * call.top_k + place;
      const int expert = __ldg(call.experts + pair);
      if (expert < 0 || expert >= call.num_experts) continue;
      const float weight = __ldg(call.weights + pair);
      float values[CHUNK];
      load<Element>(values, pairs + pair * call.hidden_size + column);
#pragma unroll
      for (int i = 0; i < CHUNK; i++) sums[i] += weight * values[i];
    }
    store<Element>(out + token * call.out_stride + column, sums);
  }
}
OCTAVO_KERNEL(combine_experts, NUM_THREADS, 0)
