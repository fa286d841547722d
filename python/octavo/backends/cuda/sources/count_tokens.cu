// Writes which tokens a row has had, for the penalties of sampling.cu: when a request with penalties comes into a row,
// or goes on there after it was preempted.
//
// One block does one item, and no row is in two items. The tokens are those that the host knows; the sampler counts
// what it chooses after that by itself.
#include "penalties.cuh"

// Mirrored by python/octavo/backends/cuda/arguments.py.
struct CountTokensCall {
  const int* num_items;    // one number: the step's
  const int* row;          // of each item
  const int* starts;       // not 0: what the row had before is forgotten first
  const int* first_token;  // [items + 1]: item i has the tokens from first_token[i] up to first_token[i + 1]
  const int* num_prompt;   // so many of them, the first ones, are of the prompt, and the others of the output
  const int* tokens;       // those outside of the vocabulary are without effect
  PenaltyState penalties;  // of which the columns of samples are not read
  int vocab_size;
};

constexpr int NUM_THREADS = 256;

OCTAVO_DEVICE void count_atomically(uint16* count) {
  uint16 expected, seen = *count;
  do {
    expected = seen;
    if (expected == MOST_COUNTED) return;
    seen = atomicCAS(count, expected, static_cast<uint16>(expected + 1));
  } while (seen != expected);
}

extern "C" __global__ void __launch_bounds__(NUM_THREADS, 1)
count_tokens(const __grid_constant__ CountTokensCall call) {
  for (int item = blockIdx.x; item < *call.num_items; item += gridDim.x) {
    const int row = call.row[item], num_words = static_cast<int>(prompt_words(call.vocab_size));
    uint16* counts = call.penalties.output_counts + static_cast<int64>(row) * call.vocab_size;
    uint32* prompt = call.penalties.prompt_tokens + static_cast<int64>(row) * num_words;
    if (call.starts[item]) {
      for (int token = threadIdx.x; token < call.vocab_size; token += NUM_THREADS) counts[token] = 0;
      for (int word = threadIdx.x; word < num_words; word += NUM_THREADS) prompt[word] = 0;
    }
    __syncthreads();  // the row is empty
    const int first = call.first_token[item], end = call.first_token[item + 1];
    for (int index = first + static_cast<int>(threadIdx.x); index < end; index += NUM_THREADS) {
      const int token = call.tokens[index];
      if (token < 0 || token >= call.vocab_size) continue;
      if (index - first < call.num_prompt[item]) atomicOr(prompt + token / 32, 1u << token % 32);
      else count_atomically(counts + token);
    }
  }
}
OCTAVO_KERNEL(count_tokens, NUM_THREADS, 0)
