// What a step's arena holds that several kernels read; octavo-core writes it.
#pragma once
#include "primitives.cuh"

// The places in its column `counts`. Kernels read them there, so that a captured graph serves every step; what lies
// behind a count in the other columns is what an earlier step left. Mirrored by backends/cuda/arguments.py.
enum StepCount {
  NUM_REQS = 0,
  NUM_TOKENS = 1,
  NUM_SAMPLES = 2,
  NUM_TABLE_DELTAS = 3,
  NUM_BLOCK_COPIES = 4,
  NUM_DECODE_ITEMS = 5,
  NUM_PREFILL_ITEMS = 6,
  NUM_MERGES = 7,
  NUM_HISTORIES = 8,
};
