// Joins the parts of a token's attention that were computed over different keys.
//
// Each part is normalised, and comes with the log-sum-exp of its scores: the whole is their mean, weighted by
// exp(log-sum-exp). The sinks are added here, once. A part without keys has -infinity, and weighs nothing.
//
// One block joins one token's head, each of its threads two dimensions. The list is attention.cuh's MergeList.
#include "attention.cuh"

constexpr int NUM_THREADS = HEAD_DIM / 2;

extern "C" __global__ void __launch_bounds__(NUM_THREADS)
attention_merge(const __grid_constant__ AttentionCall call) {
  const int num_units = *call.merges.count * call.num_heads, dimension = threadIdx.x * 2;
  for (int unit = blockIdx.x; unit < num_units; unit += gridDim.x) {
    const int item = unit / call.num_heads, head = unit % call.num_heads;
    const int first_slot = call.merges.first_slot[item], num_slots = call.merges.num_slots[item];
    const int slot_stride = call.merges.slot_stride[item];
    auto row_of = [&](int part) { return static_cast<int64>(first_slot + part * slot_stride) * call.num_heads + head; };

    float highest = -INFINITY, total = 0.f, value = 0.f, next = 0.f;
    for (int part = 0; part < num_slots; part++) highest = max(highest, call.partial_log_sums[row_of(part)]);
    const float base = highest == -INFINITY ? 0.f : highest;
    for (int part = 0; part < num_slots; part++) {
      const int64 row = row_of(part);
      const float weight = exp2_approximate(call.partial_log_sums[row] - base);
      const float2 pair = *reinterpret_cast<const float2*>(call.partial_output + row * HEAD_DIM + dimension);
      total += weight;
      value += weight * pair.x;
      next += weight * pair.y;
    }
    const Ending ending = end_softmax(highest, total, sink_of(call, head));
    const int64 row = static_cast<int64>(call.merges.token[item]) * call.num_heads + head;
    uint16* output = static_cast<uint16*>(call.output) + row * HEAD_DIM + dimension;
    *reinterpret_cast<uint32*>(output) = Query::pack(value * ending.factor, next * ending.factor);
    if (call.log_sums && dimension == 0) call.log_sums[row] = ending.log_sum;
  }
}
OCTAVO_KERNEL(attention_merge, NUM_THREADS, 0)
