// How the next token or code is chosen.
#pragma once
#include <numeric>

#include "simd/rows.h"

namespace voicereel {

// Indices of numbers from the largest to the smallest, equal ones as they come: by their bits, a byte
// at a time.
inline std::vector<int64_t> ranked_indices(const float* x, int64_t count) {
  struct Entry {
    uint32_t key, index;
  };
  std::vector<Entry> entries(count), sorted(count);
  for (int64_t i = 0; i < count; i++) {
    uint32_t bits;
    __builtin_memcpy(&bits, x + i, sizeof bits);
    if (bits == 0x80000000u) bits = 0;  // -0 is no less than 0
    entries[i] = {bits >> 31 ? bits : ~bits & 0x7fffffffu, uint32_t(i)};
  }
  for (int shift = 0; shift < 32; shift += 8) {
    uint32_t begins[257] = {};
    for (const Entry& entry : entries) begins[(entry.key >> shift & 255) + 1]++;
    std::partial_sum(begins, begins + 257, begins);
    for (const Entry& entry : entries) sorted[begins[entry.key >> shift & 255]++] = entry;
    entries.swap(sorted);
  }
  std::vector<int64_t> order(count);
  for (int64_t i = 0; i < count; i++) order[i] = entries[i].index;
  return order;
}

// See `engine.lm.sampler.sample`, whose order of operations this is.
inline int64_t sample_row(float* logits, int64_t choices, const int64_t* previous, int64_t window,
                   float temperature, float top_p, float penalty, const float* noise, int64_t top_k) {
  std::vector<int64_t> late(previous, previous + window);
  std::sort(late.begin(), late.end());
  late.erase(std::unique(late.begin(), late.end()), late.end());  // each is penalised once
  const float inverse = 1 / penalty;
  for (const int64_t choice : late)
    if (choice >= 0 && choice < choices) logits[choice] *= logits[choice] < 0 ? penalty : inverse;
  if (top_p <= 0) return std::max_element(logits, logits + choices) - logits;
  const std::vector<int64_t> order = ranked_indices(logits, choices);
  std::vector<float> ranked(choices), mass(choices);
  for (int64_t i = 0; i < choices; i++) mass[i] = ranked[i] = logits[order[i]];
  softmax_row(mass.data(), choices, ranked[0]);
  // Drop a choice when the mass up to and with it exceeds top_p, but never the first.
  int64_t kept = 1;
  const int64_t most = top_k > 0 ? std::min(top_k, choices) : choices;
  for (float sum = mass[0]; kept < most && (sum += mass[kept]) <= top_p;) kept++;
  const float coldness = 1 / std::max(temperature, 1e-5f);
  for (int64_t i = 0; i < kept; i++) ranked[i] *= coldness;
  softmax_row(ranked.data(), kept, ranked[0]);
  for (int64_t i = 0; i < kept; i++) ranked[i] /= noise[i];  // its largest is a draw
  return order[std::max_element(ranked.begin(), ranked.begin() + kept) - ranked.begin()];
}

}  // namespace voicereel
