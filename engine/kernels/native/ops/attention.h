// Attention of new positions over a cache and themselves, every row by itself.
#pragma once
#include "simd/rows.h"

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

// Cached positions of one head in order. The first of them may be read in another row that has the same
// prefix: so they come from memory once for all rows that share it.
template <class Cached>
struct Positions {
  const Cached* from[2];
  int64_t count[2];

  template <class Each>  // (position, its numbers)
  void each(int64_t dim, Each call) const {
    int64_t position = 0;
    for (int run = 0; run < 2; run++) {
      const Cached* numbers = from[run];
      for (int64_t i = 0; i < count[run]; i++, numbers += dim) call(position++, numbers);
    }
  }
};

struct Attention {
  const float* qkv;
  int64_t batch, time, kv_heads, groups, dim;
  const int64_t *past, *begins;  // positions cached; what the first of them is called, or null: 0.
                                 // Those called less than 0 cannot be seen
  int64_t window;                // positions that one may see, itself included
  const int64_t *leads, *shared;  // the row that holds the same first positions, and how many; or null
  const float *cos_sin, *q_norm = nullptr, *k_norm = nullptr;
  float eps;
  int64_t row_stride, head_stride;  // of the cache, the same for keys and values
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

  template <class Cached>
  Positions<Cached> positions(const Cached* cache, int64_t b, int64_t h, int64_t begin, int64_t count) const {
    const int64_t there = leads ? std::clamp<int64_t>(shared[b] - begin, 0, count) : 0;
    const int64_t head = h * head_stride + begin * dim, lead = leads ? leads[b] : b;
    return {{cache + lead * row_stride + head, cache + b * row_stride + head + there * dim}, {there, count - there}};
  }

  int64_t end_of(int64_t b, int64_t row) const { return past[b] + row / groups + 1; }  // what it may see
  int64_t begin_of(int64_t b, int64_t row) const {
    const int64_t oldest = begins ? std::max<int64_t>(0, -begins[b]) : 0;
    return std::max(oldest, end_of(b, row) - window);
  }

  // Up to kQueries rows of one KV head: a pass over its keys and one over its values.
  template <int width, class Cached>
  void look(int64_t b, int64_t h, int64_t first, int count, const Cached* keys, const Cached* values) const {
    const int64_t begin = begin_of(b, first), longest = end_of(b, first + count - 1) - begin;
    float* weights = scratch<float>(count * longest);
    const auto seen = [&](int row) { return end_of(b, first + row) - begin; };
    in_fours(count, [&](auto rows, int row) {
      const float* query[rows.value];
      for (int r = 0; r < rows.value; r++) query[r] = queries + place(b, h, first + row + r);
      const int64_t end = seen(row + rows.value - 1);
      score<width>(query, positions(keys, b, h, begin, end), longest, weights + row * longest);
    });
    for (int row = 0; row < count; row++) {
      float *from = weights + row * longest, *end = from + seen(row);
      float* visible = from + (begin_of(b, first + row) - begin);
      std::fill(from, visible, 0.f);
      softmax_row(visible, end - visible, *std::max_element(visible, end));
      std::fill(end, from + longest, 0.f);
    }
    in_fours(count, [&](auto rows, int row) {
      float* to[rows.value];
      for (int r = 0; r < rows.value; r++) to[r] = y + place(b, h, first + row + r);
      const int64_t end = seen(row + rows.value - 1);
      mix<width>(weights + row * longest, longest, positions(values, b, h, begin, end), to);
    });
  }

  // Calls back with as many rows as are taken at once, and the first of them.
  template <class Call>
  static void in_fours(int count, Call call) {
    int row = 0;
    for (; row + 4 <= count; row += 4) call(std::integral_constant<int, 4>(), row);
    for (; row + 2 <= count; row += 2) call(std::integral_constant<int, 2>(), row);
    for (; row < count; row++) call(std::integral_constant<int, 1>(), row);
  }

  template <int width, int rows, class Cached>
  void score(const float* (&query)[rows], const Positions<Cached>& keys, int64_t longest, float* to) const {
    const float scale = reciprocal_root(float(dim));
    keys.each(dim, [&](int64_t p, const Cached* key) {
      Floats sum[rows] = {};
      int64_t d = 0;
#pragma GCC unroll 8
      for (; d + kLanes <= (width ? width : dim); d += kLanes) {
        const Floats part = lanes(key + d);
        __builtin_prefetch(key + kAhead * dim + d);
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) sum[r] += lanes(query[r] + d) * part;
      }
      if (d < dim)
        for (int r = 0; r < rows; r++) sum[r] += lanes(query[r] + d, dim - d) * lanes(key + d, dim - d);
#pragma GCC unroll 4
      for (int r = 0; r < rows; r++) to[r * longest + p] = added(sum[r]) * scale;
    });
  }

  template <int width, int rows, class Cached>
  void mix(const float* weights, int64_t longest, const Positions<Cached>& values, float* (&to)[rows]) const {
    constexpr int parts = width ? std::min(width / kLanes, 16 / rows) : 1;
    int64_t d = 0;
    for (; d + parts * kLanes <= dim; d += parts * kLanes) {
      Floats sum[rows][parts] = {};
      values.each(dim, [&](int64_t p, const Cached* value) {
#pragma GCC unroll 8
        for (int i = 0; i < parts; i++) {
          const Cached* from = value + d + i * kLanes;
          const Floats part = lanes(from);
          __builtin_prefetch(from + kAhead * dim);
#pragma GCC unroll 4
          for (int r = 0; r < rows; r++) sum[r][i] += weights[r * longest + p] * part;
        }
      });
      for (int r = 0; r < rows; r++) __builtin_memcpy(to[r] + d, sum[r], sizeof sum[r]);
    }
    for (; d < dim; d += kLanes) {
      const int64_t count = std::min<int64_t>(kLanes, dim - d);
      for (int r = 0; r < rows; r++) {
        Floats sum = {};
        values.each(dim, [&](int64_t p, const Cached* value) { sum += weights[r * longest + p] * lanes(value + d, count); });
        __builtin_memcpy(to[r] + d, &sum, count * sizeof(float));
      }
    }
  }

  template <int width, class Cached>
  void look_at_all(const Cached* keys, const Cached* values) const {
    const int64_t rows = time * groups, steps = (rows + kQueries - 1) / kQueries;
    // Head by head: what rows share stays in the cache of the core that takes this head.
#pragma omp for schedule(static)
    for (int64_t i = 0; i < kv_heads * batch * steps; i++) {
      const int64_t h = i / steps / batch, b = i / steps % batch;
      const int64_t row = i % steps * kQueries;
      look<width>(b, h, row, std::min<int64_t>(kQueries, rows - row), keys, values);
    }
  }

  bool worth_threads() const { return batch * time * kv_heads * dim > kWorthThreads / 64; }

  // By all threads of a team.
  template <class Cached>
  void run(Cached* keys, Cached* values) const {
#pragma omp for
    for (int64_t row = 0; row < batch * time; row++) prepare(row / time, row % time, keys, values);
    switch (dim) {
      case 64: return look_at_all<64>(keys, values);
      case 128: return look_at_all<128>(keys, values);
      default: look_at_all<0>(keys, values);
    }
  }
};

}  // namespace voicereel
