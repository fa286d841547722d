// The first kernel of a step: what octavo-core changed since the last one reaches the GPU's own state.
//
//   the block table    gets the blocks that the step's requests were given
//   input tokens       those that the core knows stand in the arena. A step is planned while the one before still runs:
//                      a token which that one samples is named by its row, and is taken from where sampling left it
//
// Every thread takes deltas and tokens by turns; the grid may have any size.
#include "step.cuh"

// Mirrored by python/octavo/backends/cuda/arguments.py.
struct UpdateRowsCall {
  const int* counts;                                    // of StepCount
  const int *delta_row, *delta_column, *delta_block;    // block_table[row][column] = block; each place once at most
  const int* input_ids;   // a token, or -1 - row: the row's last one
  const int* last_token;  // of each row: what was sampled for it last
  int* block_table;       // [rows, table_stride]
  int* tokens;            // what the model reads; behind num_tokens zeros, which every vocabulary has
  int table_stride;
  int num_padded_tokens;  // of `tokens`; at least as many as there are
};

constexpr int NUM_THREADS = 128;

extern "C" __global__ void __launch_bounds__(NUM_THREADS)
update_rows(const __grid_constant__ UpdateRowsCall call) {
  const int thread = blockIdx.x * NUM_THREADS + threadIdx.x, num_threads = gridDim.x * NUM_THREADS;
  const int num_deltas = call.counts[NUM_TABLE_DELTAS], num_tokens = call.counts[NUM_TOKENS];
  for (int i = thread; i < num_deltas; i += num_threads)
    call.block_table[static_cast<int64>(call.delta_row[i]) * call.table_stride + call.delta_column[i]] =
        call.delta_block[i];
  for (int i = thread; i < call.num_padded_tokens; i += num_threads) {
    const int id = i < num_tokens ? call.input_ids[i] : 0;
    // Where nothing could be sampled stands -1; the request ends, and what is computed for it is not used.
    call.tokens[i] = id >= 0 ? id : max(0, call.last_token[-1 - id]);
  }
}
OCTAVO_KERNEL(update_rows, NUM_THREADS, 0)
