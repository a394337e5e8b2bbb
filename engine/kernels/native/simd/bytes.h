// Products of 8-bit numbers. Their sums are exact on every CPU, so they are the same on all of them.
#pragma once
#include "simd/rows.h"

namespace voicereel {

using Shorts = int16_t __attribute__((vector_size(4 * kLanes)));

// Products of 16-bit numbers, each two neighbours added up.
inline Ints pair_products(Shorts x, Shorts y) {
#if defined(__AVX512BW__)
  return (Ints)_mm512_madd_epi16((__m512i)x, (__m512i)y);
#elif defined(__AVX2__) && !defined(__AVX512F__)
  return (Ints)_mm256_madd_epi16((__m256i)x, (__m256i)y);
#else
  Ints sums;
  for (int i = 0; i < kLanes; i++) sums[i] = x[2 * i] * y[2 * i] + x[2 * i + 1] * y[2 * i + 1];
  return sums;
#endif
}

// sum + the products of x (kDot) with weights (kLanes, kDot).
inline Ints with_products(Ints sum, const uint8_t* x, const int8_t* weights) {
  int32_t four;
  __builtin_memcpy(&four, x, sizeof four);
#if defined(__AVX512VNNI__)
  return (Ints)_mm512_dpbusd_epi32((__m512i)sum, _mm512_set1_epi32(four),
                                   _mm512_loadu_si512(weights));
#elif defined(__AVXVNNI__) && !defined(__AVX512F__)
  return (Ints)_mm256_dpbusd_avx_epi32((__m256i)sum, _mm256_set1_epi32(four),
                                       _mm256_loadu_si256((const __m256i*)weights));
#else
  // AVX2 cuts the sum of two products of bytes off at 16 bits, which 2 * 255 * 127 exceeds. So each
  // byte becomes 16 bits: those at even places by themselves, and those at odd places.
  const Words inputs = Words{} + uint32_t(four);
  Shorts both;
  __builtin_memcpy(&both, weights, sizeof both);
  return sum + pair_products((Shorts)(inputs & 0xff00ff), (both << 8) >> 8) +
         pair_products((Shorts)(inputs >> 8 & 0xff00ff), both >> 8);
#endif
}

// Products of weights of 4 bits, 0 to 15, with signed bytes. Eight products and their neighbours' fit 16
// bits: 16 * 15 * 127 < 2^15. So a group's sums stay there where no instruction adds up four at once.
constexpr int kGroup = 32;  // of depth, with one scale for each output
#if defined(__AVX512VNNI__) || (defined(__AVXVNNI__) && !defined(__AVX512F__))
using GroupSums = Ints;
#else
using GroupSums = Shorts;
#endif

// sum + the products of x (kDot) with weights (kLanes, kDot), each a byte.
inline GroupSums with_small_products(GroupSums sum, const int8_t* x, Words weights) {
  int32_t four;
  __builtin_memcpy(&four, x, sizeof four);
#if defined(__AVX512VNNI__)
  return (Ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)weights, _mm512_set1_epi32(four));
#elif defined(__AVXVNNI__) && !defined(__AVX512F__)
  return (Ints)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)weights, _mm256_set1_epi32(four));
#elif defined(__AVX512BW__)
  return sum + (Shorts)_mm512_maddubs_epi16((__m512i)weights, _mm512_set1_epi32(four));
#elif defined(__AVX2__) && !defined(__AVX512F__)
  return sum + (Shorts)_mm256_maddubs_epi16((__m256i)weights, _mm256_set1_epi32(four));
#else
  uint8_t small[4 * kLanes];
  __builtin_memcpy(small, &weights, sizeof small);
  for (int i = 0; i < 2 * kLanes; i++)
    sum[i] += small[2 * i] * x[2 * i % kDot] + small[2 * i + 1] * x[(2 * i + 1) % kDot];
  return sum;
#endif
}

inline Ints totals(Ints sums) { return sums; }
inline Ints totals(Shorts sums) { return pair_products(sums, Shorts{} + 1); }

}  // namespace voicereel
