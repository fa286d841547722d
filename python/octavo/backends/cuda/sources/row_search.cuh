// Finding tokens in a row of logits without sorting it: what one block does with one row.
//
//   to_mass             a probability, up to a factor, as an integer
//   SearchMemory        what a block needs of shared memory; free again when a function below returns
//   each_token          the tokens of a range with their keys, shared out over the block
//   best_token          the largest logit, and the lowest token that has it
//   total               of one amount a thread
//   locate              in the order of the tokens: the first one where the amounts up to it exceed a goal
//   search              in the order of the logits, from the largest down: the same
//   search_kth          the k-th largest logit
//
// Everything that is summed is an integer, so that no sum depends on the order of its terms: whatever the order in
// which threads come, a row gives the same token. An amount is 1 where tokens are counted, and a mass where their
// probabilities matter.
//
// A Row has `tokens`, its range; read(token), which only loads a logit; and, if changes(), change(logit, token), what is
// made of it then.
#pragma once
#include "keys.cuh"

#ifndef BLOCK_THREADS
#define BLOCK_THREADS 512
#endif

constexpr int NUM_THREADS = BLOCK_THREADS;
constexpr int NUM_WARPS = NUM_THREADS / WARP_SIZE;
constexpr int DIGIT_BITS = 11, NUM_BINS = 1 << DIGIT_BITS, NUM_DIGITS = 3;

// A weight from 0 to 1 in units of 2^-40: exact from 2^-16 on, and below 2^-40 it is none. A million of them fit in 64
// bits.
constexpr int MASS_BITS = 40;

OCTAVO_DEVICE uint64 to_mass(float weight) {
  constexpr int MANTISSA_BITS = 23, EXPONENT_OF_ONE = 127;
  const uint32 bits = __float_as_uint(weight);
  const uint64 mantissa = (bits & 0x7fffffu) | 0x800000u;
  const int shift = EXPONENT_OF_ONE - static_cast<int>(bits >> MANTISSA_BITS);
  return mantissa << (MASS_BITS - MANTISSA_BITS) >> min(shift, 63);
}

// ---- the block

struct SearchMemory {
  uint32 low[NUM_BINS], high[NUM_BINS];  // the amounts of the bins of `search`, in two halves
  uint64 parts[NUM_WARPS];
  uint64 above;
  uint32 bin;

  // The GPU adds 32 bits in shared memory at once, and 64 only by trying.
  OCTAVO_DEVICE void add(int bin, uint64 amount) {
    const uint32 addend = static_cast<uint32>(amount);
    const uint32 sum = atomicAdd(low + bin, addend) + addend;
    const uint32 carried = static_cast<uint32>(amount >> 32) + (sum < addend);
    if (carried) atomicAdd(high + bin, carried);
  }
  OCTAVO_DEVICE uint64 amount(int bin) const { return static_cast<uint64>(high[bin]) << 32 | low[bin]; }
};

struct Range {
  int begin, end;

  // Warps have neighbouring tokens each, and the first warp the first ones.
  OCTAVO_DEVICE Range part(int warp) const {
    const int tokens = (end - begin + NUM_THREADS - 1) / NUM_THREADS * WARP_SIZE;
    return {min(begin + warp * tokens, end), min(begin + (warp + 1) * tokens, end)};
  }
};

// The loads of a batch are under way together: one at a time would take the latency of L2 each.
template <class Row, class Visit>
OCTAVO_DEVICE void each_token(const Row& row, Range range, Visit visit) {
  constexpr int BATCH = 8;
  const Range mine = range.part(threadIdx.x / WARP_SIZE);
  const int lane = threadIdx.x % WARP_SIZE;
  for (int first = mine.begin + lane; first < mine.end; first += BATCH * WARP_SIZE) {
    auto token_of = [&](int i) { return min(first + i * WARP_SIZE, mine.end - 1); };
    float logits[BATCH];
#pragma unroll
    for (int i = 0; i < BATCH; i++) logits[i] = row.read(token_of(i));
    if (row.changes()) {
#pragma unroll
      for (int i = 0; i < BATCH; i++) logits[i] = row.change(logits[i], token_of(i));
    }
#pragma unroll
    for (int i = 0; i < BATCH; i++)
      if (first + i * WARP_SIZE < mine.end) visit(first + i * WARP_SIZE, key_of(logits[i]));
  }
}

template <class Row>
OCTAVO_DEVICE uint32 key_of_token(const Row& row, int token) {
  return key_of(row.changes() ? row.change(row.read(token), token) : row.read(token));
}

// Both are `ranked`; 0 where there was no token.
struct Best {
  uint64 of_block, of_thread;
};

template <class Row>
OCTAVO_DEVICE Best best_token(const Row& row, SearchMemory& memory) {
  uint64 own = 0;
  each_token(row, row.tokens, [&](int token, uint32 key) { own = max(own, ranked(key, token)); });
  uint64 best = best_of_warp(own);
  if (threadIdx.x % WARP_SIZE == 0) memory.parts[threadIdx.x / WARP_SIZE] = best;
  __syncthreads();  // every warp has its best
  for (int warp = 0; warp < NUM_WARPS; warp++) best = max(best, memory.parts[warp]);
  __syncthreads();  // every thread has read the bests
  return {best, own};
}

OCTAVO_DEVICE uint64 total_of_warp(uint64 amount) {
#pragma unroll
  for (int distance = WARP_SIZE / 2; distance > 0; distance /= 2)
    amount += __shfl_xor_sync(ALL_LANES, amount, distance);
  return amount;
}

// The amounts of the lanes up to this one.
OCTAVO_DEVICE uint64 total_up_to_lane(uint64 amount) {
#pragma unroll
  for (unsigned distance = 1; distance < WARP_SIZE; distance *= 2) {
    const uint64 lower = __shfl_up_sync(ALL_LANES, amount, distance);
    if (threadIdx.x % WARP_SIZE >= distance) amount += lower;
  }
  return amount;
}

OCTAVO_DEVICE uint64 total(uint64 amount, SearchMemory& memory) {
  amount = total_of_warp(amount);
  if (threadIdx.x % WARP_SIZE == 0) memory.parts[threadIdx.x / WARP_SIZE] = amount;
  __syncthreads();  // every warp has its total
  uint64 sum = 0;
  for (int warp = 0; warp < NUM_WARPS; warp++) sum += memory.parts[warp];
  __syncthreads();  // every thread has read the totals
  return sum;
}

// ---- searches

// amount(token, key) is asked two or three times; the goal is goal_of(the sum of all), and less than that sum. The block sums
// the part of each warp, and then looks in one part as it did in the row, until that part is one token a lane.
template <class Row, class Amount, class GoalOf>
OCTAVO_DEVICE int locate(const Row& row, SearchMemory& memory, Amount amount, GoalOf goal_of) {
  Range range = row.tokens;
  uint64 goal = 0;
  for (bool is_row = true; is_row || range.end - range.begin > WARP_SIZE; is_row = false) {
    uint64 own = 0;
    each_token(row, range, [&](int token, uint32 key) { own += amount(token, key); });
    own = total_of_warp(own);
    if (threadIdx.x % WARP_SIZE == 0) memory.parts[threadIdx.x / WARP_SIZE] = own;
    __syncthreads();  // every part has its sum
    if (is_row) {
      uint64 sum = 0;
      for (int part = 0; part < NUM_WARPS; part++) sum += memory.parts[part];
      goal = goal_of(sum);
    }
    int part = 0;
    for (; part < NUM_WARPS - 1 && memory.parts[part] <= goal; part++) goal -= memory.parts[part];
    __syncthreads();  // every thread has read the parts
    range = range.part(part);
  }
  const int token = range.begin + threadIdx.x % WARP_SIZE;
  const uint64 up_to = total_up_to_lane(token < range.end ? amount(token, key_of_token(row, token)) : 0);
  return range.begin + __ffs(__ballot_sync(ALL_LANES, up_to > goal)) - 1;
}

struct Found {
  uint32 key;    // 0 where all amounts together do not exceed the goal
  uint64 above;  // the amounts of the larger keys
};

// The largest key such that the amounts of all that are at least as large exceed `goal`. each(visit) calls
// visit(key, amount) for what this thread has, three times the same: for each digit of the key, from the highest, the
// amounts are summed by its value.
template <class Each>
OCTAVO_DEVICE Found search(uint64 goal, SearchMemory& memory, Each each) {
  Found found{0, 0};
  uint32 known = 0;  // the bits of the key that were found
#pragma unroll 8
  for (int digit = 1; digit <= NUM_DIGITS; digit++) {
    const int shift = max(32 - digit * DIGIT_BITS, 0);
    for (int bin = threadIdx.x; bin < NUM_BINS; bin += NUM_THREADS) memory.low[bin] = memory.high[bin] = 0;
    __syncthreads();  // the bins are empty, and every thread knows the digit before
    each([&](uint32 key, uint64 amount) {
      if ((key & known) == found.key) memory.add((key & ~known) >> shift, amount);
    });
    if (threadIdx.x == 0) {
      memory.bin = 0;
      memory.above = 0;
    }
    __syncthreads();  // all is in the bins
    constexpr int OWN_BINS = NUM_BINS / NUM_THREADS;
    int bin = NUM_BINS - 1 - static_cast<int>(threadIdx.x) * OWN_BINS;  // this thread's highest
    uint64 own = 0;
    for (int i = 0; i < OWN_BINS; i++) own += memory.amount(bin - i);
    const uint64 up_to = total_up_to_lane(own);
    if (threadIdx.x % WARP_SIZE == WARP_SIZE - 1) memory.parts[threadIdx.x / WARP_SIZE] = up_to;
    __syncthreads();  // every warp has its sum
    uint64 above = found.above + up_to - own;
    for (int warp = 0; warp < static_cast<int>(threadIdx.x) / WARP_SIZE; warp++) above += memory.parts[warp];
    if (above <= goal && goal < above + own) {
      for (; above + memory.amount(bin) <= goal; bin--) above += memory.amount(bin);
      memory.bin = bin;
      memory.above = above;
    }
    __syncthreads();  // the digit is found
    found.key |= memory.bin << shift;
    found.above = memory.above;
    known |= (NUM_BINS - 1u) << shift;
  }
  return found;
}

// The k-th largest key; above are those that are larger. `best` are the threads' largest keys: the k-th largest of them
// is one that at least k tokens reach, and few more, so that only those few are counted.
template <class Row>
OCTAVO_DEVICE Found search_kth(int k, const Row& row, uint32 best, SearchMemory& memory) {
  uint32 least = LOWEST_KEY;
  if (k <= NUM_THREADS) {
    const Found bound = search(k - 1, memory, [&](auto visit) {
      if (best >= LOWEST_KEY) visit(best, 1);
    });
    least = max(least, bound.key);
  }
  return search(k - 1, memory, [&](auto visit) {
    each_token(row, row.tokens, [&](int, uint32 key) {
      if (key >= least) visit(key, 1);
    });
  });
}
