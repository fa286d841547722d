// What a request's earlier tokens do to its logits: the repetition, frequency and presence penalties.
//
// Which tokens a row of the step has had is kept on the GPU. count_tokens.cu writes it when a row starts; the sampler
// adds each token that it chooses.
#pragma once
#include "primitives.cuh"

// Mirrored by python/octavo/backends/cuda/arguments.py.
struct PenaltyState {
  // Of each sample. A column that is null penalises nothing.
  const float* presence;    // taken from the logit of each token of the output
  const float* frequency;   // the same for each time that it occurs there
  const float* repetition;  // divides the logit, or multiplies a negative one, of each token of prompt and output
  // Of each row: [rows, vocab_size], and [rows, vocab_size / 32] rounded up. Null if all columns are.
  uint16* output_counts;  // at most MOST_COUNTED
  uint32* prompt_tokens;  // a bit a token
};

constexpr uint16 MOST_COUNTED = 0xffff;

OCTAVO_DEVICE int64 prompt_words(int vocab_size) { return (vocab_size + 31) / 32; }

// Those of one sample.
struct Penalties {
  float presence = 0, frequency = 0, repetition = 1;
  uint16* counts = nullptr;  // null: the sample has none
  const uint32* prompt = nullptr;

  OCTAVO_DEVICE Penalties(const PenaltyState& state, int sample, int row, int vocab_size) {
    if (state.presence) presence = state.presence[sample];
    if (state.frequency) frequency = state.frequency[sample];
    if (state.repetition) repetition = state.repetition[sample];
    if (presence == 0 && frequency == 0 && repetition == 1) return;
    counts = state.output_counts + static_cast<int64>(row) * vocab_size;
    prompt = state.prompt_tokens + row * prompt_words(vocab_size);
  }

  // Rounded step by step as on the CPU, which has the same logits then.
  OCTAVO_DEVICE float apply(float logit, int token) const {
    const int count = counts[token];
    if (count || prompt[token / 32] >> token % 32 & 1) logit = logit > 0 ? logit / repetition : logit * repetition;
    return count ? logit - __fmul_rn(frequency, count) - presence : logit;
  }

  OCTAVO_DEVICE void count(int token) const {
    if (counts[token] < MOST_COUNTED) counts[token]++;
  }
};
