// What the kernels of a mixture of experts share.
//
// A pair is a token with one of the experts it goes to: number token · top_k + place. route_tokens chooses the experts
// (moe_routing.cu), sort_pairs brings the pairs of each together in tiles, expert_product multiplies each tile by its
// expert's matrix (moe_product.cu), and combine_experts adds up what the pairs of a token became. All counts are read
// from device memory, so that a captured graph serves every step.
//
// Pairs keep their number from the routing to the sum: only the order in which they are multiplied is sorted.
#pragma once
#include "elements.cuh"

using Element = ELEMENT_TYPE;

// 16: with few tokens an expert has few of them, and its matrix is what takes time. 64 is for many.
#ifndef TILE_ROWS
#define TILE_ROWS 16
#endif

// Mirrored by python/octavo/backends/cuda/arguments.py.
struct ExpertTiles {
  int* num_tiles;  // one number
  int* expert;     // [tiles]: at most pairs / TILE_ROWS, rounded down, + experts
  int* pair;       // [tiles, TILE_ROWS]: rising within an expert, and then -1
};
