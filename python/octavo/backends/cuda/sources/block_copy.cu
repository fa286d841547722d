// Copies whole blocks of the cache: within it for copy-on-write, and to and from pinned host memory for swapping.
//
// A plane is the keys or the values of one layer: blocks side by side. All planes of all pairs are copied by one
// launch, which the host's memory may take part in as either side. A unit of work is a tile of one block in one plane;
// each thread starts all its reads before it writes, so that PCIe, which is slow to answer, has many on their way.
#include "primitives.cuh"

// Mirrored by python/octavo/backends/cuda/arguments.py. In a step, no block is the target of two pairs, nor the target
// of one and the source of another: pairs are copied in any order.
struct BlockCopyCall {
  const uint8* source;
  uint8* target;
  const int *source_block, *target_block;  // of each pair
  const int* count;                        // of pairs
  int64 source_plane_stride, target_plane_stride, block_bytes;  // bytes; multiples of 16
  int num_planes;
};

constexpr int NUM_THREADS = 256, CHUNK = 16, CHUNKS_PER_THREAD = 4;
constexpr int TILE_BYTES = NUM_THREADS * CHUNKS_PER_THREAD * CHUNK;

extern "C" __global__ void __launch_bounds__(NUM_THREADS)
copy_blocks(const __grid_constant__ BlockCopyCall call) {
  const int num_tiles = (call.block_bytes + TILE_BYTES - 1) / TILE_BYTES, tiles_of_pair = call.num_planes * num_tiles;
  const int num_units = *call.count * tiles_of_pair;
  for (int unit = blockIdx.x; unit < num_units; unit += gridDim.x) {
    const int pair = unit / tiles_of_pair, plane = unit % tiles_of_pair / num_tiles;
    const int64 first = static_cast<int64>(unit % num_tiles) * TILE_BYTES + threadIdx.x * CHUNK;
    const uint8* source = call.source + plane * call.source_plane_stride + call.source_block[pair] * call.block_bytes;
    uint8* target = call.target + plane * call.target_plane_stride + call.target_block[pair] * call.block_bytes;
    uint4 chunks[CHUNKS_PER_THREAD];
#pragma unroll
    for (int i = 0; i < CHUNKS_PER_THREAD; i++) {
      const int64 place = first + i * NUM_THREADS * CHUNK;
      if (place < call.block_bytes) chunks[i] = *reinterpret_cast<const uint4*>(source + place);
    }
#pragma unroll
    for (int i = 0; i < CHUNKS_PER_THREAD; i++) {
      const int64 place = first + i * NUM_THREADS * CHUNK;
      if (place < call.block_bytes) *reinterpret_cast<uint4*>(target + place) = chunks[i];
    }
  }
}
OCTAVO_KERNEL(copy_blocks, NUM_THREADS, 0)
