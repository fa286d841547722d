// From logits to tokens. A sample of the step is one block's work: it reads the row a few times from the GPU's L2, and
// sorts nothing (row_search.cuh).
//
// The token is the one that the CPU's sampler takes (rust/octavo-kernels/src/sample.rs) for the same logits, seed,
// choice and step, but where rounding or the sign of a zero decides. In order: penalties; the most probable token if the temperature is 0;
// else temperature, min-p, top-k, top-p (each of what the one before left), and a draw by the inverse of the cumulated
// probabilities, in the order of the tokens. NaN counts as minus infinity. Log-probabilities are those of the raw
// logits.
//
// Logit biases, banned tokens and grammars are not done here: such samples are the host's (host_sample).
#include "elements.cuh"
#include "penalties.cuh"
#include "row_search.cuh"

// Columns are of the step's samples, in its arena. Mirrored by python/octavo/backends/cuda/arguments.py.
struct SamplingCall {
  const void* logits;        // [samples, logits_stride], of which vocab_size are read
  const int* num_samples;    // one number: the step's
  const float* temperature;  // below 1e-5: the most probable token
  const int* top_k;          // tokens as probable as the k-th are kept too; 0: off
  const float* top_p;        // the most probable tokens that together reach this probability; 1: off
  const float* min_p;        // tokens with at least this part of the largest probability; 0: off
  const int64* seed;
  const int* choice;        // which of a request's n answers
  const int64* draw_step;   // how many tokens the answer has already
  const int* sample_row;    // the sequence's row
  const int* host_sample;   // not 0: the host samples it, and it is left alone; null: none
  int* sampled;             // -1 where no token was possible
  int* last_token;          // [rows]: for the next step, in which there is no token -1
  float* sampled_logprob;   // these four only if num_logprobs is not null; 0 where none was asked for
  int* sampled_rank;        // 1 for the most probable token, equals sharing the better rank
  int* top_ids;             // [samples, max_logprobs]: the best tokens, best first, and then -1
  float* top_logprobs;      // minus infinity after the last
  const int* num_logprobs;  // of top_ids, at most 32; -1: not even the sampled token's; null: all -1
  PenaltyState penalties;
  int64 logits_stride;  // elements
  int vocab_size;       // at most 2^20
  int max_logprobs;
};

constexpr int MOST_LOGPROBS = WARP_SIZE;
constexpr float GREEDY_BELOW = 1e-5f;

struct SamplingMemory {
  SearchMemory search;
  uint64 top[MOST_LOGPROBS];
  int num_top;
};
constexpr int SHARED_BYTES = sizeof(SamplingMemory);

struct Row {
  const LOGIT_TYPE::Storage* logits;
  Penalties penalties;
  Range tokens;

  OCTAVO_DEVICE Row(const SamplingCall& call, int sample)
      : logits(static_cast<const LOGIT_TYPE::Storage*>(call.logits) + sample * call.logits_stride),
        penalties(call.penalties, sample, call.sample_row[sample], call.vocab_size),
        tokens{0, call.vocab_size} {}

  OCTAVO_DEVICE float read(int token) const { return to_float<LOGIT_TYPE>(__ldg(logits + token)); }
  OCTAVO_DEVICE bool changes() const { return penalties.counts; }
  OCTAVO_DEVICE float change(float logit, int token) const { return penalties.apply(logit, token); }

  OCTAVO_DEVICE Row raw() const {
    Row row = *this;
    row.penalties.counts = nullptr;
    return row;
  }
};

// ---- the draw

// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011), as on the CPU. Returns 53 bits.
OCTAVO_DEVICE uint64 random_bits(uint64 seed, uint64 step, uint32 choice) {
  constexpr int ROUNDS = 10;
  uint32 a = static_cast<uint32>(step), b = static_cast<uint32>(step >> 32), c = choice, d = 0;
  uint32 low = static_cast<uint32>(seed), high = static_cast<uint32>(seed >> 32);
  for (int round = 0; round < ROUNDS; round++) {
    const uint64 first = static_cast<uint64>(a) * 0xd2511f53u, second = static_cast<uint64>(c) * 0xcd9e8d57u;
    a = static_cast<uint32>(second >> 32) ^ b ^ low;
    b = static_cast<uint32>(second);
    c = static_cast<uint32>(first >> 32) ^ d ^ high;
    d = static_cast<uint32>(first);
    low += 0x9e3779b9u;
    high += 0xbb67ae85u;
  }
  return static_cast<uint64>(a >> 5) << 26 | b >> 6;
}

// What may be drawn: the tokens with a larger key, and of those with this key the ones up to `token`.
struct Cut {
  uint32 key = LOWEST_KEY;
  int token = 0x7fffffff;
  OCTAVO_DEVICE bool keeps(int other_token, uint32 other) const {
    return other > key || (other == key && other_token <= token);
  }
};

class Draw {
  const Row& row;
  SearchMemory& memory;
  float largest, factor;
  Cut cut;

 public:
  OCTAVO_DEVICE Draw(const Row& row, SearchMemory& memory, float largest, float temperature)
      : row(row), memory(memory), largest(largest), factor(1.f / min(temperature, 1e30f)) {}

  OCTAVO_DEVICE void keep_min_p(float min_p) {
    cut.key = max(cut.key, key_of(largest + logf(min(min_p, 1.f)) / factor));
  }

  OCTAVO_DEVICE void keep_top_k(int k, uint32 best_of_thread) {
    const Found kth = search_kth(k, row, best_of_thread, memory);
    cut.key = max(cut.key, kth.key);
  }

  // Where tokens at the end are equal, the first ones are kept.
  OCTAVO_DEVICE void keep_top_p(float top_p) {
    // Mostly a few tokens hold all that is needed; then the others need not be put into bins.
    constexpr uint64 NEAR = 1ull << (MASS_BITS - 12);
    uint64 own = 0, own_near = 0;
    each_token(row, row.tokens, [&](int token, uint32 key) {
      const uint64 mass = mass_of(token, key);
      own += mass;
      if (mass >= NEAR) own_near += mass;
    });
    const uint64 all = total(own, memory), near = total(own_near, memory);
    const uint64 goal = below_part(all, top_p), least = near > goal ? NEAR : 1;
    const Found last = search(goal, memory, [&](auto visit) {
      each_token(row, row.tokens, [&](int token, uint32 key) {
        const uint64 mass = mass_of(token, key);
        if (mass >= least) visit(key, mass);
      });
    });
    auto mass_of_equals = [&](int token, uint32 key) { return key == last.key ? mass_of(token, key) : 0; };
    cut = {last.key, locate(row, memory, mass_of_equals, [&](uint64) { return goal - last.above; })};
  }

  OCTAVO_DEVICE int draw(uint64 random) const {
    auto mass = [&](int token, uint32 key) { return mass_of(token, key); };
    return locate(row, memory, mass, [&](uint64 all) { return __umul64hi(random << (64 - 53), all); });
  }

 private:
  OCTAVO_DEVICE uint64 mass_of(int token, uint32 key) const {
    return cut.keeps(token, key) ? to_mass(expf((number_of(key) - largest) * factor)) : 0;
  }

  // One less than the masses which reach that part of all.
  OCTAVO_DEVICE static uint64 below_part(uint64 all, float part) {
    const uint64 scaled = to_mass(part) << (64 - MASS_BITS), whole = __umul64hi(all, scaled);
    return all * scaled != 0 || whole == 0 ? whole : whole - 1;
  }
};

// Returns -1 where every logit is minus infinity.
OCTAVO_DEVICE int choose(const SamplingCall& call, int sample, const Row& row, SearchMemory& memory) {
  const Best best = best_token(row, memory);
  const uint32 key = key_of_ranked(best.of_block);
  const float largest = number_of(key), temperature = call.temperature[sample];
  if (key < LOWEST_KEY) return -1;
  // An infinite logit has all the probability.
  if (!(temperature >= GREEDY_BELOW) || largest == INFINITY) return index_of_ranked(best.of_block);
  Draw draw(row, memory, largest, temperature);
  const int top_k = call.top_k[sample];
  if (call.min_p[sample] > 0) draw.keep_min_p(call.min_p[sample]);
  if (top_k > 0 && top_k < call.vocab_size) draw.keep_top_k(top_k, key_of_ranked(best.of_thread));
  if (call.top_p[sample] < 1) draw.keep_top_p(call.top_p[sample]);
  return draw.draw(random_bits(call.seed[sample], call.draw_step[sample], call.choice[sample]));
}

// ---- log-probabilities: all rows here are raw

class LogSoftmax {
  float largest, log_sum = 0;

 public:
  OCTAVO_DEVICE LogSoftmax(const Row& row, SearchMemory& memory, float largest) : largest(largest) {
    if (largest == INFINITY || largest == -INFINITY) return;
    uint64 own = 0;
    each_token(row, row.tokens, [&](int, uint32 key) { own += to_mass(expf(number_of(key) - largest)); });
    log_sum = logf(static_cast<float>(total(own, memory)) / static_cast<float>(1ull << MASS_BITS));
  }
  OCTAVO_DEVICE float of(float logit) const {
    if (largest == INFINITY) return logit == INFINITY ? 0.f : -INFINITY;
    return logit - largest - log_sum;
  }
};

// The `count` best tokens, by search and not in order; then each counts those that are better.
OCTAVO_DEVICE void write_top(const SamplingCall& call, int sample, const Row& row, const LogSoftmax& softmax, int count,
                             uint32 best_of_thread, SamplingMemory& memory) {
  Cut cut;
  Found kth{0, 0};
  if (count > 0) kth = search_kth(count, row, best_of_thread, memory.search);
  else cut.key = 0xffffffffu;  // which no number has
  if (kth.key) {               // otherwise there are fewer
    auto is_equal = [&](int, uint32 key) -> uint64 { return key == kth.key; };
    auto goal = [&](uint64) { return count - 1 - kth.above; };
    cut = {kth.key, locate(row, memory.search, is_equal, goal)};
  }
  if (threadIdx.x == 0) memory.num_top = 0;
  __syncthreads();  // the list is empty
  each_token(row, row.tokens, [&](int token, uint32 key) {
    if (cut.keeps(token, key)) memory.top[atomicAdd(&memory.num_top, 1)] = ranked(key, token);
  });
  __syncthreads();  // the list is whole
  const int64 first = static_cast<int64>(sample) * call.max_logprobs;
  for (int index = threadIdx.x; index < call.max_logprobs; index += NUM_THREADS) {
    if (index < memory.num_top) {
      int place = 0;
      for (int other = 0; other < memory.num_top; other++) place += memory.top[other] > memory.top[index];
      call.top_ids[first + place] = index_of_ranked(memory.top[index]);
      call.top_logprobs[first + place] = softmax.of(number_of(key_of_ranked(memory.top[index])));
    } else {
      call.top_ids[first + index] = -1;
      call.top_logprobs[first + index] = -INFINITY;
    }
  }
}

OCTAVO_DEVICE void write_logprobs(const SamplingCall& call, int sample, const Row& row, int chosen,
                                  SamplingMemory& memory) {
  const int count = call.num_logprobs[sample];
  float logprob = 0;
  int rank = 0;
  if (count >= 0) {
    const Best best = best_token(row, memory.search);
    const LogSoftmax softmax(row, memory.search, number_of(key_of_ranked(best.of_block)));
    const uint32 chosen_key = chosen < 0 ? 0 : key_of_token(row, chosen);
    uint64 own = 0;
    each_token(row, row.tokens, [&](int, uint32 key) { own += key > chosen_key; });
    const int better = static_cast<int>(total(own, memory.search));
    if (chosen >= 0) {
      logprob = softmax.of(number_of(chosen_key));
      rank = better + 1;
    }
    if (call.max_logprobs > 0)
      write_top(call, sample, row, softmax, min(count, MOST_LOGPROBS), key_of_ranked(best.of_thread), memory);
  }
  if (threadIdx.x == 0) {
    call.sampled_logprob[sample] = logprob;
    call.sampled_rank[sample] = rank;
  }
}

// ---- the kernel

extern "C" __global__ void __launch_bounds__(NUM_THREADS, 1)  // without the 1 the compiler aims higher, and spills
sample(const __grid_constant__ SamplingCall call) {
  OCTAVO_SHARED(shared);
  SamplingMemory& memory = *reinterpret_cast<SamplingMemory*>(shared);
  for (int index = blockIdx.x; index < *call.num_samples; index += gridDim.x) {
    if (call.host_sample && call.host_sample[index]) continue;
    const Row row(call, index);
    const int token = choose(call, index, row, memory.search);
    if (call.num_logprobs) write_logprobs(call, index, row.raw(), token, memory);
    __syncthreads();  // every thread is done with the row's counts
    if (threadIdx.x == 0) {
      call.sampled[index] = token;
      call.last_token[call.sample_row[index]] = max(token, 0);
      if (row.penalties.counts && token >= 0) row.penalties.count(token);
    }
  }
}
OCTAVO_KERNEL(sample, NUM_THREADS, SHARED_BYTES)
OCTAVO_CONSTANT(sampling_max_logprobs, MOST_LOGPROBS)
