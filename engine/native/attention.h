// Attention of new positions over a cache and themselves, every row by itself.
#pragma once
#include <ATen/Parallel.h>

#include "rows.h"

namespace voicereel {

// (count,) pairs turned by cosine and sine, (count / 2, 2).
inline void turn_row(const float* x, const float* cos_sin, int64_t count, float* y) {
#pragma omp simd
  for (int64_t i = 0; i < count; i += 2) {
    const float cos = cos_sin[i], sin = cos_sin[i + 1], even = x[i], odd = x[i + 1];
    y[i] = even * cos - odd * sin;
    y[i + 1] = odd * cos + even * sin;
  }
}

struct Attention {
  const float* qkv;
  int64_t batch, time, kv_heads, groups, dim;
  const int64_t *past, *begins;  // positions cached; what the first of them is called, or null: 0.
                                 // Those called less than 0 cannot be seen
  int64_t window;                // positions that one may see, itself included
  const float *cos_sin, *q_norm, *k_norm;
  float eps;
  int64_t row_stride, head_stride;  // of the cache, keys and values alike
  float *queries, *y;               // (batch, time, heads, dim)

  // One head of one position: normed, turned.
  void head(const float* x, const float* norm, int64_t position, float* to) const {
    float normed[dim];
    if (norm) norm_row(x, norm, eps, dim, normed);
    turn_row(norm ? normed : x, cos_sin + position * dim, dim, to);
  }

  template <class Cached>
  void prepare(int64_t b, int64_t t, Cached* keys, Cached* values) const {
    const int64_t heads = kv_heads * groups, position = past[b] + t, row = b * time + t;
    const float* x = qkv + row * (heads + 2 * kv_heads) * dim;
    for (int64_t h = 0; h < heads; h++)
      head(x + h * dim, q_norm, name(b, position), queries + (row * heads + h) * dim);
    for (int64_t h = 0; h < kv_heads; h++) {
      float key[dim];
      head(x + (heads + h) * dim, k_norm, name(b, position), key);
      const float* value = x + (heads + kv_heads + h) * dim;
      const int64_t at = b * row_stride + h * head_stride + position * dim;
      for (int64_t d = 0; d < dim; d++) store(keys + at + d, key[d]);
      for (int64_t d = 0; d < dim; d++) store(values + at + d, value[d]);
    }
  }

  int64_t name(int64_t b, int64_t position) const { return position + (begins ? begins[b] : 0); }

  // Where a row of queries, one head of one position, lies.
  int64_t place(int64_t b, int64_t h, int64_t row) const {
    return ((b * time + row / groups) * kv_heads * groups + h * groups + row % groups) * dim;
  }

  // Some rows of one KV head: a pass over its keys and one over its values.
  template <int width, int rows, class Cached>
  void look(int64_t b, int64_t h, int64_t first, const Cached* keys, const Cached* values) const {
    const int64_t oldest = begins ? std::max<int64_t>(0, -begins[b]) : 0;
    const int64_t begin = std::max(oldest, past[b] + first / groups + 1 - window);
    const int64_t longest = past[b] + (first + rows - 1) / groups + 1 - begin;
    keys += b * row_stride + h * head_stride + begin * dim;
    values += b * row_stride + h * head_stride + begin * dim;
    float* weights = scratch<float>(rows * longest);
    const float* query[rows];
    float* to[rows];
    for (int r = 0; r < rows; r++) {
      query[r] = queries + place(b, h, first + r);
      to[r] = y + place(b, h, first + r);
    }
    score<width>(query, keys, longest, weights);
    for (int r = 0; r < rows; r++) {
      float* row = weights + r * longest;
      const int64_t end = past[b] + (first + r) / groups + 1 - begin;
      float* seen = row + std::max<int64_t>(0, end - window);
      std::fill(row, seen, 0.f);
      softmax_row(seen, row + end - seen, *std::max_element(seen, row + end));
      std::fill(row + end, row + longest, 0.f);
    }
    mix<width>(weights, values, longest, to);
  }

  template <int width, int rows, class Cached>
  void score(const float* (&query)[rows], const Cached* key, int64_t count, float* to) const {
    const float scale = 1 / std::sqrt(float(dim));
    for (int64_t p = 0; p < count; p++, key += dim) {
      Floats sum[rows] = {};
      int64_t d = 0;
#pragma GCC unroll 8
      for (; d + kLanes <= (width ? width : dim); d += kLanes) {
        const Floats part = lanes(key + d);
        __builtin_prefetch(key + kAhead * dim + d);
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) sum[r] += lanes(query[r] + d) * part;
      }
#pragma GCC unroll 4
      for (int r = 0; r < rows; r++) {
        float total = added(sum[r]);
        for (int64_t e = d; e < dim; e++) total += query[r][e] * as_float(key[e]);
        to[r * count + p] = total * scale;
      }
    }
  }

  template <int width, int rows, class Cached>
  void mix(const float* weights, const Cached* value, int64_t count, float* (&to)[rows]) const {
    constexpr int parts = width ? std::min(width / kLanes, 16 / rows) : 1;
    int64_t d = 0;
    for (; d + parts * kLanes <= dim; d += parts * kLanes) {
      Floats sum[rows][parts] = {};
      for (int64_t p = 0; p < count; p++)
#pragma GCC unroll 8
        for (int i = 0; i < parts; i++) {
          const Cached* from = value + p * dim + d + i * kLanes;
          const Floats part = lanes(from);
          __builtin_prefetch(from + kAhead * dim);
#pragma GCC unroll 4
          for (int r = 0; r < rows; r++) sum[r][i] += weights[r * count + p] * part;
        }
      for (int r = 0; r < rows; r++) __builtin_memcpy(to[r] + d, sum[r], sizeof sum[r]);
    }
    for (; d < dim; d++)
      for (int r = 0; r < rows; r++) {
        float total = 0;
        for (int64_t p = 0; p < count; p++) total += weights[r * count + p] * as_float(value[p * dim + d]);
        to[r][d] = total;
      }
  }

  template <int width, class Cached>
  void look_at_all(const Cached* keys, const Cached* values) const {
    const int64_t rows = time * groups, steps = (rows + kQueries - 1) / kQueries;
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < batch * kv_heads * steps; i++) {
      const int64_t b = i / steps / kv_heads, h = i / steps % kv_heads;
      int64_t row = i % steps * kQueries;
      const int64_t end = std::min(rows, row + kQueries);
      for (; row + 4 <= end; row += 4) look<width, 4>(b, h, row, keys, values);
      for (; row + 2 <= end; row += 2) look<width, 2>(b, h, row, keys, values);
      for (; row < end; row++) look<width, 1>(b, h, row, keys, values);
    }
  }

  template <class Cached>
  void run(Cached* keys, Cached* values) const {
#pragma omp parallel num_threads(at::get_num_threads()) if (batch * time * kv_heads * dim > kWorthThreads / 64)
    {
#pragma omp for
      for (int64_t row = 0; row < batch * time; row++) prepare(row / time, row % time, keys, values);
      switch (dim) {
        case 64: look_at_all<64>(keys, values); break;
        case 128: look_at_all<128>(keys, values); break;
        default: look_at_all<0>(keys, values);
      }
    }
  }
};

}  // namespace voicereel
