// The host half of primitives.cuh, which says what each function does: the PTX instructions, lane by lane.
//
//   numbers            bf16, fp16 and e4m3, as cvt rounds them
//   copy_async         lands early or late (fibers.h: Landing), and checks alignment
//   load_matrices      ldmatrix; counts bank conflicts
//   mma                gathers the fragments into matrices, multiplies, and scatters the sums
#pragma once

using octavo_host::machine;

// ---- numbers

inline uint32 float_to_bf16_bits(float value) {
  const uint32 bits = __float_as_uint(value);
  if (value != value) return 0x7fff;
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

inline uint32 float_to_fp16_bits(float value) {
  if (value != value) return 0x7fff;
  return __builtin_bit_cast(uint16, static_cast<_Float16>(value));
}

inline float fp16_bits_to_float(uint32 bits) { return __builtin_bit_cast(_Float16, static_cast<uint16>(bits)); }

// e4m3: four bits of exponent with bias 7, three of mantissa, no infinity, and 0x7f is NaN.
inline float fp8_bits_to_float(uint32 bits) {
  const int exponent = bits >> 3 & 0xf, mantissa = bits & 7;
  if ((bits & 0x7f) == 0x7f) return NAN;
  const float magnitude = exponent ? std::ldexp(8 + mantissa, exponent - 10) : std::ldexp(mantissa, -9);
  return bits & 0x80 ? -magnitude : magnitude;
}

inline uint32 pack_bf16(float low, float high) { return float_to_bf16_bits(low) | float_to_bf16_bits(high) << 16; }
inline uint32 pack_fp16(float low, float high) { return float_to_fp16_bits(low) | float_to_fp16_bits(high) << 16; }
inline float fp16_low(uint32 pair) { return fp16_bits_to_float(pair & 0xffff); }
inline float fp16_high(uint32 pair) { return fp16_bits_to_float(pair >> 16); }
// The sum is rounded to float before it is rounded again, which shows only where it lies almost between two numbers.
inline uint32 fma_bf16(uint32 a, uint32 b, uint32 c) {
  return pack_bf16(std::fma(bf16_low(a), bf16_low(b), bf16_low(c)), std::fma(bf16_high(a), bf16_high(b), bf16_high(c)));
}
inline uint32 fma_fp16(uint32 a, uint32 b, uint32 c) {
  return pack_fp16(std::fma(fp16_low(a), fp16_low(b), fp16_low(c)), std::fma(fp16_high(a), fp16_high(b), fp16_high(c)));
}
inline uint32 fp8_to_fp16(uint16 pair) {
  return pack_fp16(fp8_bits_to_float(pair & 0xff), fp8_bits_to_float(pair >> 8));
}

// The nearest of all 127 magnitudes, and of two the one with the even code: the definition, not the fast way.
inline uint32 nearest_fp8_bits(float value) {
  const uint32 sign = __float_as_uint(value) >> 24 & 0x80;
  if (value != value) return sign | 0x7f;
  uint32 best = 0;
  auto distance = [&](uint32 bits) { return std::fabs(std::fabs(double{value}) - fp8_bits_to_float(bits)); };
  for (uint32 bits = 1; bits < 0x7f; bits++)
    if (distance(bits) < distance(best) || (distance(bits) == distance(best) && bits % 2 == 0)) best = bits;
  return sign | best;
}
inline uint16 pack_fp8(float low, float high) { return nearest_fp8_bits(low) | nearest_fp8_bits(high) << 8; }

inline float exp2_approximate(float x) { return std::exp2(x); }
inline float log2_approximate(float x) { return std::log2(x); }
inline float reciprocal_approximate(float x) { return 1.f / x; }
inline float reciprocal_sqrt_approximate(float x) { return 1.f / std::sqrt(x); }

// ---- copies and barriers

inline void check_aligned(const char* operation, const void* pointer, int bytes) {
  if (reinterpret_cast<uintptr_t>(pointer) % bytes) octavo_host::fail("%s: %p is not aligned", operation, pointer);
}

inline void check_shared(const char* operation, const void* pointer, int bytes) {
  const uint8 *first = static_cast<const uint8*>(pointer), *shared = machine.shared;
  if (first < shared || first + bytes > shared + machine.options.shared_bytes)
    octavo_host::fail("%s: byte %td of %u of shared memory", operation, first - shared, machine.options.shared_bytes);
}

template <int BYTES>
void copy_async(void* shared, const void* global, bool valid) {
  using octavo_host::Landing;
  static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16);
  check_aligned("cp.async", shared, BYTES);
  check_shared("cp.async", shared, BYTES);
  if (valid) check_aligned("cp.async", global, BYTES);
  machine.statistics.copied_bytes += valid ? BYTES : 0;
  octavo_host::AsyncCopy copy{shared, global, BYTES, valid};
  const Landing landing = machine.options.landing;
  const bool now = landing == Landing::early || (landing == Landing::mixed && machine.random.coin());
  if (now) octavo_host::land(copy);
  if (now) copy.bytes = 0;  // it has landed; its group is waited for all the same
  machine.current->copies.back().push_back(copy);
}

inline void commit_copies() { machine.current->copies.emplace_back(); }

template <int NUM_LATEST>
void wait_for_copies() {
  auto& groups = machine.current->copies;
  const int num_landing = static_cast<int>(groups.size()) - 1 - NUM_LATEST;
  for (int group = 0; group < num_landing; group++)
    for (const auto& copy : groups[group]) octavo_host::land(copy);
  if (num_landing > 0) groups.erase(groups.begin(), groups.begin() + num_landing);
}

inline void barrier_wait(int number, int threads) { octavo_host::wait_barrier(number, threads, true); }
inline void barrier_arrive(int number, int threads) { octavo_host::wait_barrier(number, threads, false); }

// ---- matrices

namespace octavo_host {

struct MatrixRow {
  uint16 values[8];
  uintptr_t address;
};

template <int COUNT>
struct Registers {
  uint32 values[COUNT];
};

// Eight rows of 16 bytes are one access if they lie in eight different groups of four banks.
inline int conflicts_of_eight_rows(const uintptr_t (&addresses)[8]) {
  unsigned seen = 0;
  int conflicts = 0;
  for (uintptr_t address : addresses) {
    const unsigned bank_group = 1u << (address / 16 % 8);
    conflicts += (seen & bank_group) != 0;
    seen |= bank_group;
  }
  return conflicts;
}

// A lane reads its row when it arrives, before the others may: what another lane has yet to write is then missing.
template <int COUNT>
void ldmatrix(uint32 (&registers)[COUNT], const void* row, bool transposed) {
  MatrixRow mine{};
  if (machine.current->lane() < COUNT * 8) {  // the addresses of the other lanes are not used
    check_aligned("ldmatrix", row, 16);
    check_shared("ldmatrix", row, 16);
    std::memcpy(mine.values, row, 16);
    mine.address = reinterpret_cast<uintptr_t>(row);
  }
  const char* name = transposed ? "ldmatrix.trans" : "ldmatrix";
  auto taken = meet<Registers<COUNT>>(~0u, name, mine, [=](auto lanes) {
    if (lanes.mask != ~0u) fail("%s needs a whole warp", name);
    machine.statistics.ldmatrix++;
    for (int matrix = 0; matrix < COUNT; matrix++) {
      auto element = [&](int row, int column) -> uint32 { return lanes.given(matrix * 8 + row).values[column]; };
      uintptr_t addresses[8];
      for (int row = 0; row < 8; row++) addresses[row] = lanes.given(matrix * 8 + row).address;
      machine.statistics.bank_conflicts += conflicts_of_eight_rows(addresses);
      for (int lane = 0; lane < LANES; lane++) {
        const int row = lane / 4, column = lane % 4 * 2;
        lanes.taken(lane).values[matrix] = transposed
            ? element(column, row) | element(column + 1, row) << 16
            : element(row, column) | element(row, column + 1) << 16;
      }
    }
  });
  std::copy(taken.values, taken.values + COUNT, registers);
}

struct Fragments {
  uint32 a[4], b[2];
  float sums[4];
};

// Products of 16-bit numbers are exact in doubles; they are summed there and rounded once.
template <class ToFloat>
void mma(const char* name, float (&sums)[4], const uint32 (&a)[4], uint32 b0, uint32 b1, ToFloat to_float) {
  const Fragments mine{{a[0], a[1], a[2], a[3]}, {b0, b1}, {sums[0], sums[1], sums[2], sums[3]}};
  struct Sums {
    float values[4];
  };
  const Sums taken = meet<Sums>(~0u, name, mine, [=](auto lanes) {
    if (lanes.mask != ~0u) fail("%s needs a whole warp", name);
    double left[16][16], right[16][8], product[16][8] = {};
    machine.statistics.mma++;
    for (int lane = 0; lane < LANES; lane++) {
      const Fragments& given = lanes.given(lane);
      const int row = lane / 4, column = lane % 4 * 2;
      for (int half = 0; half < 2; half++) {
        auto value = [&](uint32 pair) { return to_float(pair >> (16 * half) & 0xffff); };
        left[row][column + half] = value(given.a[0]);
        left[row + 8][column + half] = value(given.a[1]);
        left[row][column + 8 + half] = value(given.a[2]);
        left[row + 8][column + 8 + half] = value(given.a[3]);
        right[column + half][row] = value(given.b[0]);
        right[column + 8 + half][row] = value(given.b[1]);
      }
    }
    for (int m = 0; m < 16; m++)
      for (int k = 0; k < 16; k++)
        for (int n = 0; n < 8; n++) product[m][n] += left[m][k] * right[k][n];
    for (int lane = 0; lane < LANES; lane++) {
      const int row = lane / 4, column = lane % 4 * 2;
      for (int i = 0; i < 4; i++) {
        const double sum = lanes.given(lane).sums[i] + product[row + i / 2 * 8][column + i % 2];
        lanes.taken(lane).values[i] = static_cast<float>(sum);
      }
    }
  });
  std::copy(taken.values, taken.values + 4, sums);
}

}  // namespace octavo_host

inline void load_matrices(uint32 (&registers)[4], const void* row) { octavo_host::ldmatrix(registers, row, false); }
inline void load_matrices(uint32 (&registers)[2], const void* row) { octavo_host::ldmatrix(registers, row, false); }
inline void load_matrices_transposed(uint32 (&registers)[4], const void* row) {
  octavo_host::ldmatrix(registers, row, true);
}
inline void load_matrices_transposed(uint32 (&registers)[2], const void* row) {
  octavo_host::ldmatrix(registers, row, true);
}

inline void mma_bf16(float (&sums)[4], const uint32 (&a)[4], uint32 b0, uint32 b1) {
  octavo_host::mma("mma.bf16", sums, a, b0, b1, [](uint32 bits) { return bf16_to_float(bits); });
}
inline void mma_fp16(float (&sums)[4], const uint32 (&a)[4], uint32 b0, uint32 b1) {
  octavo_host::mma("mma.fp16", sums, a, b0, b1, [](uint32 bits) { return fp16_bits_to_float(bits); });
}
