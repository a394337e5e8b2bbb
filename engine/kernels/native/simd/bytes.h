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

}  // namespace voicereel
