// The passes between the products of a layer: RMS norm, the residual stream, and the gated activation.
//
//   rms_norm        out = norm(x) · weight
//   add_rms_norm    residual += x, then out = norm(residual) · weight. The residual is float32
//   gated_act       out [rows, I] = activation(first half of gate_up [rows, 2 I]) · second half
//
// Each can write 8 bits an element instead, for a product that reads them: OUTPUT_TYPE is then Float8 or Int8, and a
// row is divided by a scale of its own, its largest magnitude over the type's largest.
//
// A block takes a row at a time, each thread chunks of 8 neighbours, in accesses of 16 bytes. All is bound by memory:
// a row is read once, and waits in registers until its norm or its scale is known. Of rows that are too long for that
// the rest is read again, from L2. The grid may have any size.
#include "elements.cuh"

// Mirrored by python/octavo/backends/cuda/arguments.py. Rows may be padding: they are computed as the others.
struct NormCall {
  const void* x;       // [num_rows, x_stride], of which hidden_size are read
  void* out;           // [num_rows, out_stride]; may be x. Unused if quantised
  float* residual;     // [num_rows, hidden_size]; only for add_rms_norm
  const void* weight;  // [hidden_size]
  void* quantised;     // [num_rows, out_stride] of OUTPUT_TYPE, if that is Float8 or Int8
  float* row_scales;   // [num_rows], with it: what a stored number is multiplied by
  int64 x_stride, out_stride;  // elements; multiples of 8, or of 16 where they are 8 bits wide
  int num_rows, hidden_size;   // the latter a multiple of 8
  float eps;
  float weight_offset;  // is added to the weights
  int initialise;       // 1: the residual is x instead of being added to
};

struct GatedCall {
  const void* gate_up;  // [num_rows, gate_up_stride]: I numbers of the gate, I to be multiplied
  void* out;            // [num_rows, out_stride]; unused if quantised
  void* quantised;      // as in NormCall
  float* row_scales;
  int64 gate_up_stride, out_stride;
  int num_rows, intermediate_size;  // I, a multiple of 8
  int activation;                   // of Activation
};

// Mirrored in arguments.py.
enum Activation { SILU = 0, GELU_TANH = 1, GELU_ERF = 2 };

using Element = ELEMENT_TYPE;
using Output = OUTPUT_TYPE;
constexpr bool IS_QUANTISED = !SAME<Element, Output>;

constexpr int NUM_WARPS = 8, NUM_THREADS = NUM_WARPS * WARP_SIZE;
constexpr int CHUNK = 8, STEP = CHUNK * NUM_THREADS;  // elements
// Chunks of a thread that stay in registers: of rows of up to 8192, all.
constexpr int NUM_KEPT = 4;
// Rows that are all but zero become zeros: the inverse of their scale would be infinite.
constexpr float SMALLEST = 1e-30f;
constexpr int SHARED_BYTES = NUM_WARPS * sizeof(float);

// Calls function(values, column, kept) for each of the thread's chunks. `kept` is known to the compiler: such values
// are the same from one pass to the next, and others come as they are.
template <class Function>
OCTAVO_DEVICE void each_chunk(int size, float (&registers)[NUM_KEPT][CHUNK], Function function) {
#pragma unroll
  for (int i = 0; i < NUM_KEPT; i++) {
    const int column = i * STEP + threadIdx.x * CHUNK;
    if (column < size) function(registers[i], column, true);
  }
  for (int column = NUM_KEPT * STEP + threadIdx.x * CHUNK; column < size; column += STEP) {
    float values[CHUNK];
    function(values, column, false);
  }
}

// Every thread of the block gets the same: one number for all of theirs, in a fixed order.
template <class Combine>
OCTAVO_DEVICE float reduce_block(float value, Combine combine) {
  OCTAVO_SHARED(shared);
  float* of_warp = reinterpret_cast<float*>(shared);
#pragma unroll
  for (int bit = WARP_SIZE / 2; bit > 0; bit /= 2) value = combine(value, __shfl_xor_sync(ALL_LANES, value, bit));
  __syncthreads();  // every thread has read what was there before
  if (threadIdx.x % WARP_SIZE == 0) of_warp[threadIdx.x / WARP_SIZE] = value;
  __syncthreads();
  value = of_warp[0];
#pragma unroll
  for (int warp = 1; warp < NUM_WARPS; warp++) value = combine(value, of_warp[warp]);
  return value;
}

OCTAVO_DEVICE float sum_of_block(float value) {
  return reduce_block(value, [](float a, float b) { return a + b; });
}

OCTAVO_DEVICE float largest_of_block(float value) {
  return reduce_block(value, [](float a, float b) { return max(a, b); });
}

// Writes a row whose chunks compute(values, column, kept) makes. A quantised one takes two passes, the first for its
// scale: the chunks that were not kept are then made again.
template <class Type, class Call, class Compute>
OCTAVO_DEVICE void write_row(const Call& call, int row, int size, float (&registers)[NUM_KEPT][CHUNK],
                             Compute compute) {
  if constexpr (IS_QUANTISED) {
    float largest = 0.f;
    each_chunk(size, registers, [&](float (&values)[CHUNK], int column, bool kept) {
      compute(values, column, kept);
#pragma unroll
      for (int i = 0; i < CHUNK; i++) largest = max(largest, fabsf(values[i]));
    });
    largest = largest_of_block(largest);
    if (threadIdx.x == 0) call.row_scales[row] = largest / Type::LARGEST;
    const float inverse = largest > SMALLEST ? Type::LARGEST / largest : 0.f;
    auto* to = static_cast<typename Type::Storage*>(call.quantised) + row * call.out_stride;
    each_chunk(size, registers, [&](float (&values)[CHUNK], int column, bool kept) {
      if (!kept) compute(values, column, false);
#pragma unroll
      for (int i = 0; i < CHUNK; i++) values[i] *= inverse;
      store<Type>(to + column, values);
    });
  } else {
    auto* to = static_cast<typename Type::Storage*>(call.out) + row * call.out_stride;
    each_chunk(size, registers, [&](float (&values)[CHUNK], int column, bool kept) {
      compute(values, column, kept);
      store<Type>(to + column, values);
    });
  }
}

// `load_chunk(values, column, again)` reads what is normed; the second time of a chunk, `again` is true.
template <class Load>
OCTAVO_DEVICE void norm_row(const NormCall& call, int row, Load load_chunk) {
  float registers[NUM_KEPT][CHUNK], squares = 0.f;
  each_chunk(call.hidden_size, registers, [&](float (&values)[CHUNK], int column, bool) {
    load_chunk(values, column, false);
#pragma unroll
    for (int i = 0; i < CHUNK; i++) squares += values[i] * values[i];
  });
  const float factor = reciprocal_sqrt_approximate(sum_of_block(squares) / call.hidden_size + call.eps);
  const auto* weight = static_cast<const Element::Storage*>(call.weight);
  auto scale = [&](float (&values)[CHUNK], int column, bool kept) {
    if (!kept) load_chunk(values, column, true);
    float weights[CHUNK];
    load<Element>(weights, weight + column);
#pragma unroll
    for (int i = 0; i < CHUNK; i++) values[i] *= factor * (weights[i] + call.weight_offset);
  };
  write_row<Output>(call, row, call.hidden_size, registers, scale);
}

extern "C" __global__ void __launch_bounds__(NUM_THREADS)
rms_norm(const __grid_constant__ NormCall call) {
  for (int row = blockIdx.x; row < call.num_rows; row += gridDim.x) {
    const auto* x = static_cast<const Element::Storage*>(call.x) + row * call.x_stride;
    norm_row(call, row, [&](float (&values)[CHUNK], int column, bool) { load<Element>(values, x + column); });
  }
}
OCTAVO_KERNEL(rms_norm, NUM_THREADS, SHARED_BYTES)

extern "C" __global__ void __launch_bounds__(NUM_THREADS)
add_rms_norm(const __grid_constant__ NormCall call) {
  for (int row = blockIdx.x; row < call.num_rows; row += gridDim.x) {
    const auto* x = static_cast<const Element::Storage*>(call.x) + row * call.x_stride;
    float* residual = call.residual + static_cast<int64>(row) * call.hidden_size;
    norm_row(call, row, [&](float (&values)[CHUNK], int column, bool again) {
      if (again) return load<Float32>(values, residual + column);
      load<Element>(values, x + column);
      if (!call.initialise) {
        float before[CHUNK];
        load<Float32>(before, residual + column);
#pragma unroll
        for (int i = 0; i < CHUNK; i++) values[i] += before[i];
      }
      store<Float32>(residual + column, values);
    });
  }
}
OCTAVO_KERNEL(add_rms_norm, NUM_THREADS, SHARED_BYTES)

OCTAVO_DEVICE float activate(float x, int activation) {
  constexpr float LOG2_E = 1.44269504f;
  if (activation == GELU_ERF) return 0.5f * x * (1.f + erff(x * 0.707106781f));
  // GELU's tanh form is a sigmoid too: (1 + tanh u) / 2 = sigmoid(2 u).
  const float slope = activation == SILU ? x : x * (1.595769122f + 0.0713548162f * x * x);
  return x * reciprocal_approximate(1.f + exp2_approximate(-LOG2_E * slope));
}

extern "C" __global__ void __launch_bounds__(NUM_THREADS)
gated_act(const __grid_constant__ GatedCall call) {
  const int size = call.intermediate_size;
  auto compute = [&](float (&values)[CHUNK], const Element::Storage* gate) {
    float factors[CHUNK];
    load<Element>(values, gate);
    load<Element>(factors, gate + size);
#pragma unroll
    for (int i = 0; i < CHUNK; i++) values[i] = activate(values[i], call.activation) * factors[i];
  };
  const auto* gate_up = static_cast<const Element::Storage*>(call.gate_up);
  if constexpr (IS_QUANTISED) {
    for (int row = blockIdx.x; row < call.num_rows; row += gridDim.x) {
      float registers[NUM_KEPT][CHUNK];
      const auto* gate = gate_up + row * call.gate_up_stride;
      write_row<Output>(call, row, size, registers,
                        [&](float (&values)[CHUNK], int column, bool) { compute(values, gate + column); });
    }
  } else {  // without a scale, a row need not be one block's: the few rows of decoding then keep more blocks busy
    const int steps_of_row = (size + STEP - 1) / STEP;
    auto* out = static_cast<Output::Storage*>(call.out);
    for (int step = blockIdx.x; step < call.num_rows * steps_of_row; step += gridDim.x) {
      const int row = step / steps_of_row, column = step % steps_of_row * STEP + threadIdx.x * CHUNK;
      if (column >= size) continue;
      float values[CHUNK];
      compute(values, gate_up + row * call.gate_up_stride + column);
      store<Output>(out + row * call.out_stride + column, values);
    }
  }
}
OCTAVO_KERNEL(gated_act, NUM_THREADS, IS_QUANTISED ? SHARED_BYTES : 0)
