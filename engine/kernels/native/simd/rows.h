// Rows of numbers: how they are read, and what is done to each by itself. All arithmetic is float32.
#pragma once
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace voicereel {

constexpr int kColumns = 32;  // outputs of a panel, which lie side by side
constexpr int kDot = 4;       // int8 inputs whose products one instruction adds up
// Numbers of a vector, and rows whose sums with a panel stay in registers all the time.
#ifdef __AVX512F__
constexpr int kLanes = 16, kRows = 8;  // 8 rows x 2 vectors = 16 of 32 registers
#else
constexpr int kLanes = 8, kRows = 3;  // 3 rows x 4 vectors = 12 of 16 registers
#endif
constexpr int kSums = kColumns / kLanes;  // vectors of sums for each row
// Multiplications, a few microseconds of one core, below which waking other threads takes longer than
// it saves.
constexpr int64_t kWorthThreads = 1 << 16;
constexpr int kAhead = 12;  // positions of the cache from one that is read to one that is prefetched
// Query rows that a thread takes over the cache in one pass: keys and values are read once for all.
constexpr int kQueries = 16;

using Floats = float __attribute__((vector_size(4 * kLanes)));
using Words = uint32_t __attribute__((vector_size(4 * kLanes)));
using Halves = uint16_t __attribute__((vector_size(2 * kLanes)));
using Ints = int32_t __attribute__((vector_size(4 * kLanes)));

inline int64_t rounded_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

struct Bfloat16 {
  uint16_t bits;
};

inline float as_float(float x) { return x; }
inline float as_float(Bfloat16 x) {
  const uint32_t word = uint32_t(x.bits) << 16;
  float result;
  __builtin_memcpy(&result, &word, sizeof result);
  return result;
}

inline void store(float* to, float x) { *to = x; }
inline void store(Bfloat16* to, float x) {  // to the nearest, halfway to even
  uint32_t word;
  __builtin_memcpy(&word, &x, sizeof word);
  to->bits = uint16_t((word + 0x7fff + ((word >> 16) & 1)) >> 16);
}

inline Floats lanes(const float* from) {
  Floats result;
  __builtin_memcpy(&result, from, sizeof result);
  return result;
}
inline Floats lanes(const Bfloat16* from) {
  Halves halves;
  __builtin_memcpy(&halves, from, sizeof halves);
#ifdef __AVX512F__  // gcc 12 does this in two halves
  return (Floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)halves), 16);
#else
  return (Floats)(__builtin_convertvector(halves, Words) << 16);
#endif
}

template <class T>
inline Floats lanes(const T* from, int64_t count) {  // then zeros
  float numbers[kLanes] = {};
  for (int64_t i = 0; i < count; i++) numbers[i] = as_float(from[i]);
  return lanes(numbers);
}

inline float added(Floats x) {
#ifdef __AVX512F__
  return _mm512_reduce_add_ps((__m512)x);
#else
  float total = 0;
  for (int i = 0; i < kLanes; i++) total += x[i];
  return total;
#endif
}

// x / root mean square of x * weight.
inline void norm_row(const float* x, const float* weight, float eps, int64_t count, float* y) {
  float squares = 0;
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < count; i++) squares += x[i] * x[i];
  const float scale = 1 / std::sqrt(squares / count + eps);
#pragma omp simd
  for (int64_t i = 0; i < count; i++) y[i] = x[i] * scale * weight[i];
}

inline void gate_row(const float* x, int64_t count, float* y) {  // silu(gate) * up
#pragma omp simd
  for (int64_t i = 0; i < count; i++) y[i] = x[i] / (1 + std::exp(-x[i])) * x[count + i];
}

// To unsigned 8 bits, 128 standing for zero; a half is rounded up. Returns the scale.
inline float round_row(const float* x, int64_t count, uint8_t* y) {
  float largest = 1e-12f;
#pragma omp simd reduction(max : largest)
  for (int64_t i = 0; i < count; i++) largest = std::max(largest, std::abs(x[i]));
  const float scale = largest / 127, inverse = 127 / largest;
#pragma omp simd
  for (int64_t i = 0; i < count; i++) y[i] = uint8_t(int32_t(x[i] * inverse + 128.5f));
  return scale;
}

// x as the sum of two bfloat16.
inline void split_row(const float* x, int64_t count, Bfloat16* high, Bfloat16* low) {
#pragma omp simd
  for (int64_t i = 0; i < count; i++) {
    store(high + i, x[i]);
    store(low + i, x[i] - as_float(high[i]));
  }
}

// In place: to probabilities, the largest number known.
inline void softmax_row(float* x, int64_t count, float largest) {
  float total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < count; i++) {
    x[i] = std::exp(x[i] - largest);
    total += x[i];
  }
  for (int64_t i = 0; i < count; i++) x[i] /= total;
}

// Prefetches one slice of the next panel per tile, so that memory traffic overlaps the multiplication.
struct Ahead {
  int64_t every, next;

  template <class Weight>
  void fetch(const Weight* from, int64_t count) {
    if (next-- > 0) return;
    next = every - 1;
    for (int64_t i = 0; i < count; i += 64 / sizeof(Weight)) __builtin_prefetch(from + i, 0, 2);
  }
};

// Memory that a thread keeps from call to call. `which` tells apart what is needed at the same time.
template <class T, int which = 0>
T* scratch(int64_t count) {
  static thread_local std::vector<T> memory;
  if (int64_t(memory.size()) < count) memory.resize(count);
  return memory.data();
}

}  // namespace voicereel
