// The element types of activations, weights and caches.
//
//   Float32, Bfloat16, Float16   what kernels compute with
//   Float8, Int8                 e4m3 and int8: what is stored divided by a scale, such that LARGEST is the most
//   to_float                     one element of them
//   load, store                  some neighbours in memory, from and to floats, in accesses of up to 16 bytes
//   SAME, Choose                 of types, at compile time
//
// Every type has Storage, one element in memory; unpack, the elements of a word of 32 bits to floats; and pack_word,
// back, rounded to nearest even. From INTEGERS_FROM to twice that, neighbours are 1 apart.
#pragma once
#include "primitives.cuh"

struct Float32 {
  using Storage = float;
  OCTAVO_DEVICE static void unpack(uint32 word, float* values) { values[0] = __uint_as_float(word); }
  OCTAVO_DEVICE static uint32 pack_word(const float* values) { return __float_as_uint(values[0]); }
};

struct Bfloat16 {
  using Storage = uint16;
  static constexpr float INTEGERS_FROM = 128.f;
  static constexpr uint32 INTEGERS_FROM_PAIR = 0x43004300u, ONE_PAIR = 0x3f803f80u;
  OCTAVO_DEVICE static uint32 pack(float low, float high) { return pack_bf16(low, high); }
  OCTAVO_DEVICE static float low(uint32 pair) { return bf16_low(pair); }
  OCTAVO_DEVICE static float high(uint32 pair) { return bf16_high(pair); }
  OCTAVO_DEVICE static void unpack(uint32 pair, float* values) { values[0] = low(pair), values[1] = high(pair); }
  OCTAVO_DEVICE static uint32 pack_word(const float* values) { return pack(values[0], values[1]); }
  OCTAVO_DEVICE static uint32 fma(uint32 a, uint32 b, uint32 c) { return fma_bf16(a, b, c); }
  OCTAVO_DEVICE static void mma(float (&sums)[4], const uint32 (&a)[4], uint32 b0, uint32 b1) {
    mma_bf16(sums, a, b0, b1);
  }
};

struct Float16 {
  using Storage = uint16;
  static constexpr float INTEGERS_FROM = 1024.f;
  static constexpr uint32 INTEGERS_FROM_PAIR = 0x64006400u, ONE_PAIR = 0x3c003c00u;
  OCTAVO_DEVICE static uint32 pack(float low, float high) { return pack_fp16(low, high); }
  OCTAVO_DEVICE static float low(uint32 pair) { return fp16_low(pair); }
  OCTAVO_DEVICE static float high(uint32 pair) { return fp16_high(pair); }
  OCTAVO_DEVICE static void unpack(uint32 pair, float* values) { values[0] = low(pair), values[1] = high(pair); }
  OCTAVO_DEVICE static uint32 pack_word(const float* values) { return pack(values[0], values[1]); }
  OCTAVO_DEVICE static uint32 fma(uint32 a, uint32 b, uint32 c) { return fma_fp16(a, b, c); }
  OCTAVO_DEVICE static void mma(float (&sums)[4], const uint32 (&a)[4], uint32 b0, uint32 b1) {
    mma_fp16(sums, a, b0, b1);
  }
};

struct Float8 {
  using Storage = uint8;
  static constexpr float LARGEST = 448.f;
  OCTAVO_DEVICE static uint32 pack_word(const float* values) {
    return pack_fp8(values[0], values[1]) | static_cast<uint32>(pack_fp8(values[2], values[3])) << 16;
  }
};

struct Int8 {
  using Storage = signed char;
  static constexpr float LARGEST = 127.f;
  OCTAVO_DEVICE static uint32 pack_word(const float* values) {
    uint32 word = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int rounded = max(-127, min(127, __float2int_rn(values[i])));
      word |= (rounded & 0xffu) << (8 * i);
    }
    return word;
  }
};

template <class Left, class Right>
constexpr bool SAME = false;
template <class Type>
constexpr bool SAME<Type, Type> = true;
template <bool condition, class Then, class Else>
struct Choose {
  using Type = Then;
};
template <class Then, class Else>
struct Choose<false, Then, Else> {
  using Type = Else;
};

template <class Type>
OCTAVO_DEVICE float to_float(typename Type::Storage stored) {
  if constexpr (SAME<Type, Float32>) return stored;
  else return Type::low(stored);
}

// What one thread moves at once, if it is aligned so.
template <int COUNT>
struct alignas(COUNT >= 4 ? 16 : COUNT * 4) Words {
  uint32 word[COUNT];
};

template <class Type, int COUNT>
OCTAVO_DEVICE void load(float (&values)[COUNT], const typename Type::Storage* from) {
  constexpr int PER_WORD = 4 / sizeof(typename Type::Storage), NUM_WORDS = COUNT / PER_WORD;
  const auto words = *reinterpret_cast<const Words<NUM_WORDS>*>(from);
#pragma unroll
  for (int i = 0; i < NUM_WORDS; i++) Type::unpack(words.word[i], values + i * PER_WORD);
}

template <class Type, int COUNT>
OCTAVO_DEVICE void store(typename Type::Storage* to, const float (&values)[COUNT]) {
  constexpr int PER_WORD = 4 / sizeof(typename Type::Storage), NUM_WORDS = COUNT / PER_WORD;
  Words<NUM_WORDS> words;
#pragma unroll
  for (int i = 0; i < NUM_WORDS; i++) words.word[i] = Type::pack_word(values + i * PER_WORD);
  *reinterpret_cast<Words<NUM_WORDS>*>(to) = words;
}
