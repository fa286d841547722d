// What happens between the product that makes queries, keys and values, and attention over the cache.
//
// Of each token: the query and key heads are normed (where the model does that) and rotated by the token's position,
// the query stays where it is, and keys and values go to the token's slot of the cache, in the cache's type.
//
// A unit of work is one head of one token, and belongs to a warp. Nothing is shared between heads, so decoding one
// token already keeps a whole row of blocks busy. The grid may have any size: warps take units by turns, up to the
// count that the step's arena holds. What lies behind that count is neither read nor written.
#include "elements.cuh"

// Mirrored by python/octavo/backends/cuda/arguments.py. H query heads, G KV heads, D = HEAD_DIM.
struct KvWriteCall {
  void* qkv;            // [tokens, qkv_stride], of which [H + 2 G, D] are queries, keys and values
  void *keys, *values;  // [blocks, page, G, D], by the strides below
  const float *key_scales, *value_scales;  // [G], for Float8: what a stored value is multiplied by; otherwise null
  const void *query_norm, *key_norm;       // [D], of the query's type: weights of an RMS norm of each head; or null
  const float* cos_sin;       // [positions, rotary_dim]: cosines in the first half of a row, sines in the second
  const int* positions;       // of each token: its row of cos_sin
  const int64* slot_mapping;  // of each token: block << page_shift | place in the block; negative: not to the cache
  const int* num_tokens;
  int64 qkv_stride, block_stride, token_stride, head_stride;  // elements; multiples of 4
  int num_heads, num_kv_heads;
  int rotary_dim;   // the first dimensions of a head, which are rotated; a multiple of 4
  int page_shift;   // log2 of a block's tokens
  int interleaved;  // 0: dimension i is rotated with i + rotary_dim / 2. 1: 2 i with 2 i + 1
  float norm_eps;
};

using Query = QUERY_TYPE;
using Cache = CACHE_TYPE;
constexpr bool CACHE_IS_FP8 = SAME<Cache, Float8>;
static_assert(CACHE_IS_FP8 || SAME<Query, Cache>, "queries and a 16-bit cache have one type");
static_assert(HEAD_DIM % 4 == 0, "a lane has four dimensions");

constexpr int NUM_WARPS = 4, NUM_THREADS = NUM_WARPS * WARP_SIZE;
constexpr int NUM_QUADS = HEAD_DIM / 4, QUADS_PER_LANE = (NUM_QUADS + WARP_SIZE - 1) / WARP_SIZE;

// One head, spread over a warp in quads: two pairs of neighbours, which make two pairs of the rotation. So nothing has
// to move between lanes, and for the common 128 dimensions a lane has one quad.
struct Head {
  float values[QUADS_PER_LANE][4];
  int rotary_dim;
  bool interleaved;

  OCTAVO_DEVICE explicit Head(const KvWriteCall& call)
      : rotary_dim(call.rotary_dim), interleaved(call.interleaved != 0) {}

  // Calls function(values, quad, dimension of the first pair, of the second pair) for each quad that the lane has.
  // Rotated halves are half of rotary_dim apart; everywhere else the pairs are neighbours.
  template <class Function>
  OCTAVO_DEVICE void each_quad(Function function) {
#pragma unroll
    for (int i = 0; i < QUADS_PER_LANE; i++) {
      const int quad = i * WARP_SIZE + threadIdx.x % WARP_SIZE;
      const bool halves = !interleaved && quad * 4 < rotary_dim;
      if (quad < NUM_QUADS)
        function(values[i], quad, halves ? quad * 2 : quad * 4, halves ? quad * 2 + rotary_dim / 2 : quad * 4 + 2);
    }
  }

  OCTAVO_DEVICE void load_from(const Query::Storage* head) {
    each_quad([&](float (&quad)[4], int, int first, int second) {
      Query::unpack(*reinterpret_cast<const uint32*>(head + first), quad);
      Query::unpack(*reinterpret_cast<const uint32*>(head + second), quad + 2);
    });
  }

  OCTAVO_DEVICE void norm(const Query::Storage* weight, float eps) {
    float squares = 0.f;
    each_quad([&](const float (&quad)[4], int, int, int) {
      squares += quad[0] * quad[0] + quad[1] * quad[1] + quad[2] * quad[2] + quad[3] * quad[3];
    });
#pragma unroll
    for (int bit = WARP_SIZE / 2; bit > 0; bit /= 2) squares += __shfl_xor_sync(ALL_LANES, squares, bit);
    const float factor = reciprocal_sqrt_approximate(squares / HEAD_DIM + eps);
    each_quad([&](float (&quad)[4], int, int first, int second) {
      float weights[4];
      Query::unpack(*reinterpret_cast<const uint32*>(weight + first), weights);
      Query::unpack(*reinterpret_cast<const uint32*>(weight + second), weights + 2);
#pragma unroll
      for (int i = 0; i < 4; i++) quad[i] *= factor * weights[i];
    });
  }

  OCTAVO_DEVICE static void rotate_pair(float& x, float& y, float cosine, float sine) {
    const float old_x = x;
    x = old_x * cosine - y * sine;
    y = y * cosine + old_x * sine;
  }

  // `angles` are the cosines and sines of the token's position.
  OCTAVO_DEVICE void rotate(const float* angles) {
    each_quad([&](float (&quad)[4], int index, int, int) {
      if (index * 4 >= rotary_dim) return;
      const float2 cosine = *reinterpret_cast<const float2*>(angles + index * 2);
      const float2 sine = *reinterpret_cast<const float2*>(angles + rotary_dim / 2 + index * 2);
      if (interleaved) {
        rotate_pair(quad[0], quad[1], cosine.x, sine.x);
        rotate_pair(quad[2], quad[3], cosine.y, sine.y);
      } else {
        rotate_pair(quad[0], quad[2], cosine.x, sine.x);
        rotate_pair(quad[1], quad[3], cosine.y, sine.y);
      }
    });
  }

  template <class Type>
  OCTAVO_DEVICE void store_times(float factor, typename Type::Storage* head) {
    each_quad([&](const float (&quad)[4], int, int first, int second) {
      using Pair = typename Choose<SAME<Type, Float8>, uint16, uint32>::Type;
      auto pack = [&](float low, float high) -> Pair {
        if constexpr (SAME<Type, Float8>) return pack_fp8(low * factor, high * factor);
        else return Type::pack(low * factor, high * factor);
      };
      *reinterpret_cast<Pair*>(head + first) = pack(quad[0], quad[1]);
      *reinterpret_cast<Pair*>(head + second) = pack(quad[2], quad[3]);
    });
  }
};

extern "C" __global__ void __launch_bounds__(NUM_THREADS)
kv_write(const __grid_constant__ KvWriteCall call) {
  const int heads_of_token = call.num_heads + 2 * call.num_kv_heads, num_units = *call.num_tokens * heads_of_token;
  for (int unit = blockIdx.x * NUM_WARPS + threadIdx.x / WARP_SIZE; unit < num_units; unit += gridDim.x * NUM_WARPS) {
    const int token = unit / heads_of_token, number = unit % heads_of_token;
    const bool is_query = number < call.num_heads, is_value = number >= call.num_heads + call.num_kv_heads;
    const int64 slot = is_query ? 0 : call.slot_mapping[token];
    if (slot < 0) continue;

    auto* source = static_cast<Query::Storage*>(call.qkv) + token * call.qkv_stride + number * HEAD_DIM;
    Head head(call);
    head.load_from(source);
    if (!is_value) {
      const void* weight = is_query ? call.query_norm : call.key_norm;
      if (weight) head.norm(static_cast<const Query::Storage*>(weight), call.norm_eps);
      head.rotate(call.cos_sin + static_cast<int64>(call.positions[token]) * call.rotary_dim);
    }
    if (is_query) {
      head.store_times<Query>(1.f, source);
      continue;
    }
    const int kv_head = (number - call.num_heads) % call.num_kv_heads;
    const int64 block = slot >> call.page_shift, in_block = slot & ((1 << call.page_shift) - 1);
    const int64 place = block * call.block_stride + in_block * call.token_stride + kv_head * call.head_stride;
    const float* scales = is_value ? call.value_scales : call.key_scales;
    auto* cache = static_cast<Cache::Storage*>(is_value ? call.values : call.keys);
    head.store_times<Cache>(CACHE_IS_FP8 ? 1.f / scales[kv_head] : 1.f, cache + place);
  }
}
OCTAVO_KERNEL(kv_write, NUM_THREADS, 0)
