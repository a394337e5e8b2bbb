// Products of rows with constant weights: every row by itself, in one order of summation.
#pragma once
#include "simd/amx.h"
#include "simd/bytes.h"

#include <numeric>

namespace voicereel {

// x (depth, rows) times a panel (depth, kColumns) -> (rows, kColumns).
template <int rows, class Weight>
inline void tile(const float* x, const Weight* panel, int64_t depth, Ahead ahead, float* sums) {
  Floats sum[rows][kSums] = {};
  for (int64_t k = 0; k < depth; k++, x += rows, panel += kColumns) {
    ahead.fetch(panel + depth * kColumns, kColumns);
    Floats weights[kSums];
#pragma GCC unroll 4
    for (int c = 0; c < kSums; c++) weights[c] = lanes(panel + c * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
      for (int c = 0; c < kSums; c++) sum[r][c] += x[r] * weights[c];
  }
  __builtin_memcpy(sums, sum, sizeof sum);
}

// The same for 8-bit numbers: x (depth / kDot, rows, kDot), a panel (depth / kDot, kColumns, kDot).
template <int rows>
inline void tile(const uint8_t* x, const int8_t* panel, int64_t depth, Ahead ahead, int32_t* sums) {
  Ints sum[rows][kSums] = {};
  for (int64_t k = 0; k < depth; k += kDot, x += rows * kDot, panel += kColumns * kDot) {
    ahead.fetch(panel + depth * kColumns, kColumns * kDot);
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
      for (int c = 0; c < kSums; c++)
        sum[r][c] = with_products(sum[r][c], x + r * kDot, panel + c * kLanes * kDot);
  }
  __builtin_memcpy(sums, sum, sizeof sum);
}

// kGroup of depth of a panel, in 4 bits: a byte holds the weights of two steps of kDot of depth, the
// first in its lower half; 8 stands for zero.
struct Group {
  Bfloat16 scales[kColumns];
  uint8_t steps[kGroup / (2 * kDot)][kColumns * kDot];
};

// Rows in 8 bits, and for each group of each row what 8 in place of zero adds to its sums.
struct SmallInputs {
  const int8_t* x;         // (depth / kDot, rows, kDot)
  const int32_t* surplus;  // (rows, groups)
};

template <int rows>
inline void tile(SmallInputs inputs, const Group* panel, int64_t depth, Ahead ahead, float* sums) {
  const int64_t groups = depth / kGroup;
  const int8_t* x = inputs.x;
  Floats sum[rows][kSums] = {};
  for (int64_t g = 0; g < groups; g++, panel++) {
    ahead.fetch((const uint8_t*)(panel + groups), sizeof(Group));
    GroupSums part[rows][kSums] = {};
#pragma GCC unroll 4
    for (const uint8_t* step : {panel->steps[0], panel->steps[1], panel->steps[2], panel->steps[3]}) {
#pragma GCC unroll 4
      for (int c = 0; c < kSums; c++) {
        Words both;
        __builtin_memcpy(&both, step + c * kLanes * kDot, sizeof both);
        const Words low = both & 0x0f0f0f0f, high = both >> 4 & 0x0f0f0f0f;
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++)
          part[r][c] = with_small_products(with_small_products(part[r][c], x + r * kDot, low),
                                           x + (rows + r) * kDot, high);
      }
      x += 2 * rows * kDot;
    }
#pragma GCC unroll 4
    for (int c = 0; c < kSums; c++) {
      const Floats scale = lanes(panel->scales + c * kLanes);
#pragma GCC unroll 8
      for (int r = 0; r < rows; r++) {
        const Ints exact = totals(part[r][c]) - inputs.surplus[r * groups + g];
        sum[r][c] += __builtin_convertvector(exact, Floats) * scale;
      }
    }
  }
  __builtin_memcpy(sums, sum, sizeof sum);
}

template <int rows, class Input, class Weight, class Sum>
inline void any_tile(int count, Input x, const Weight* panel, int64_t depth, Ahead ahead, Sum* sums) {
  if constexpr (rows > 0) {
    if (count < rows) return any_tile<rows - 1>(count, x, panel, depth, ahead, sums);
    tile<rows>(x, panel, depth, ahead, sums);
  }
}

// All threads of a team run one together; by itself, one does.
struct Product {
  enum class Weights { floats, halves, pairs, split_pairs, bytes, groups };

  const float* x = nullptr;
  int64_t rows, width, depth, outputs;  // width: of a row of x; depth: of what is multiplied
  Weights kind;
  const void* weights;
  const float *scales, *bias, *norm, *residual = nullptr;
  const int32_t* columns;  // 128 times the sums of the int8 weights' columns
  float eps;
  bool gated;
  float* y = nullptr;  // may be the residual

  bool worth_threads() const { return rows * depth * outputs > kWorthThreads; }

  // Bytes of memory that a team needs meanwhile.
  int64_t memory_bytes() const {
    const int64_t padded = rounded_up(rows, kUnitRows);
    switch (kind) {
      case Weights::bytes: return padded * (depth + sizeof(float));
      case Weights::groups: return rows * (depth + sizeof(float) + depth / kGroup * sizeof(int32_t));
      case Weights::floats:
      case Weights::halves: return rows * depth * sizeof(float);
      default: return padded * depth * 2 * sizeof(Bfloat16);
    }
  }

  void run(char* memory) const {
    switch (kind) {
      case Weights::floats: return run((const float*)weights, (float*)memory);
      case Weights::halves: return run((const Bfloat16*)weights, (float*)memory);
      case Weights::pairs: return run_pairs<1>((const Bfloat16*)weights, (Bfloat16*)memory);
      case Weights::split_pairs: return run_pairs<2>((const Bfloat16*)weights, (Bfloat16*)memory);
      case Weights::bytes: return run((const int8_t*)weights, (uint8_t*)memory);
      case Weights::groups: return run((const Group*)weights, memory);
    }
  }

 private:
  void prepare(int64_t row, float* to) const {
    const float* from = x + row * width;
    if (gated) return gate_row(from, width / 2, to);
    if (norm) return norm_row(from, norm, eps, width, to);
    std::copy(from, from + width, to);
  }

  template <class Weight>
  void run(const Weight* weights, float* inputs) const {
    run<float>(
        weights, false, [&](int64_t row, const float* prepared) { place(prepared, row, inputs); },
        [&](int64_t row, int count, auto... rest) { any_tile<kRows>(count, inputs + row * depth, rest...); },
        [](float sum, int64_t, int64_t) { return sum; });
  }

  // By matrix units, from bfloat16 weights in pairs. A float32 input is the sum of two bfloat16, but
  // for 1 in 2^17; so may weights be, in two planes.
  template <int planes>
  void run_pairs(const Bfloat16* weights, Bfloat16* inputs) const {
    run<float, planes>(
        weights, true,
        [&](int64_t row, const float* prepared) {
          Bfloat16* parts = scratch<Bfloat16, 1>(2 * depth);
          split_row(prepared, depth, parts, parts + depth);
          place_in_block<2>(parts, row, inputs);
        },
        [&](int64_t row, int count, auto... rest) { unit_tiles<2, planes>(inputs, row, count, rest...); },
        [](float sum, int64_t, int64_t) { return sum; });
  }

  void run(const int8_t* weights, uint8_t* memory) const {
    // Sums of integers are the same either way; few rows are faster without.
    const bool by_units = has_units() && rows > kRows && depth % kUnitBytes == 0;
    float* scale = (float*)memory;
    uint8_t* inputs = memory + rounded_up(rows, kUnitRows) * sizeof(float);
    run<int32_t>(
        weights, by_units,
        [&](int64_t row, const float* prepared) {
          uint8_t* rounded = scratch<uint8_t, 1>(depth);
          scale[row] = round_row(prepared, depth, rounded);
          by_units ? place_in_block<1>(rounded, row, inputs) : place(rounded, row, inputs);
        },
        [&](int64_t row, int count, auto... rest) {
          if (by_units) return unit_tiles<1, 1>(inputs, row, count, rest...);
          any_tile<kRows>(count, inputs + row * depth, rest...);
        },
        [&](int32_t sum, int64_t row, int64_t column) {
          return (sum - columns[column]) * (scale[row] * scales[column]);
        });
  }

  void run(const Group* weights, char* memory) const {
    const int64_t groups = depth / kGroup;
    float* scale = (float*)memory;
    int32_t* surplus = (int32_t*)(scale + rows);
    int8_t* inputs = (int8_t*)(surplus + rows * groups);
    run<float>(
        weights, false,
        [&](int64_t row, const float* prepared) {
          uint8_t* rounded = scratch<uint8_t, 1>(depth);
          scale[row] = round_row(prepared, depth, rounded);
          for (int64_t k = 0; k < depth; k++) rounded[k] ^= 0x80;  // 128 stood for zero
          const int8_t* numbers = (const int8_t*)rounded;
          for (int64_t g = 0; g < groups; g++)
            surplus[row * groups + g] = 8 * std::accumulate(numbers + g * kGroup, numbers + (g + 1) * kGroup, 0);
          place(numbers, row, inputs);
        },
        [&](int64_t row, int count, auto... rest) {
          any_tile<kRows>(count, SmallInputs{inputs + row * depth, surplus + row * groups}, rest...);
        },
        [&](float sum, int64_t row, int64_t) { return sum * scale[row]; });
  }

  template <int planes, class Weight>
  const Weight* panel(const Weight* weights, int64_t column) const {
    return weights + column * depth * planes;
  }
  template <int>
  const Group* panel(const Group* weights, int64_t column) const {
    return weights + column / kColumns * (depth / kGroup);
  }

  // Tiles of kRows rows; in each, what is multiplied at once lies side by side.
  template <class Input>
  void place(const Input* from, int64_t row, Input* inputs) const {
    constexpr int dot = sizeof(Input) == 1 ? kDot : 1;
    const int64_t begin = row / kRows * kRows, count = std::min<int64_t>(kRows, rows - begin);
    Input* to = inputs + begin * depth + (row - begin) * dot;
    for (int64_t k = 0; k < depth; k += dot, to += count * dot) std::copy(from + k, from + k + dot, to);
  }

  // In blocks of kUnitRows rows, as `unit_tile` reads them. Rows beyond the last are multiplied too, but
  // their sums are not read.
  template <int parts, class Input>
  void place_in_block(const Input* from, int64_t row, Input* inputs) const {
    constexpr int step = kUnitBytes / sizeof(Input);
    Input* to = inputs + (row / kUnitRows * kUnitRows * depth * parts + row % kUnitRows * step);
    for (int64_t k = 0; k < depth; k += step)
      for (int part = 0; part < parts; part++, to += kUnitRows * step)
        std::copy(from + part * depth + k, from + part * depth + k + step, to);
  }
  template <int parts, int planes, class Input, class Weight, class Sum>
  void unit_tiles(const Input* inputs, int64_t row, int count, const Weight* panel, int64_t depth,
                  Ahead ahead, Sum* sums) const {
    const Input* from = inputs + row * depth * parts;
    const int64_t block = kUnitRows * depth * parts;
    if (count > kUnitRows) return unit_tile<parts, planes, 2>(from, block, panel, depth, ahead, sums);
    unit_tile<parts, planes, 1>(from, block, panel, depth, ahead, sums);
  }

  template <class Sum, int planes = 1, class Weight, class Prepare, class Multiply, class Value>
  void run(const Weight* weights, bool by_units, Prepare prepare_row, Multiply multiply, Value value) const {
    const int tile_rows = by_units ? kUnitRows * kUnitBlocks : kRows;
#pragma omp for
    for (int64_t row = 0; row < rows; row++) {
      float* prepared = scratch<float, 1>(depth);
      prepare(row, prepared);
      prepare_row(row, prepared);
    }
    if (by_units) begin_units();
#pragma omp for
    for (int64_t begin = 0; begin < outputs; begin += kColumns)
      for (int64_t row = 0; row < rows; row += tile_rows) {
        const int count = std::min<int64_t>(tile_rows, rows - row);
        const Ahead ahead{(rows + tile_rows - 1) / tile_rows, row / tile_rows};
        alignas(64) Sum sums[kUnitRows * kUnitBlocks * kColumns];
        multiply(row, count, panel<planes>(weights, begin), depth, ahead, sums);
        for (int r = 0; r < count; r++)
          finish(row + r, begin, std::min<int64_t>(kColumns, outputs - begin), [&](int c) {
            return value(sums[r * kColumns + c], row + r, begin + c);
          });
      }
    if (by_units) end_units();
  }

  template <class Value>  // int -> float
  void finish(int64_t row, int64_t column, int count, Value value) const {
    float* to = y + row * outputs + column;
    const float* old = residual ? residual + row * outputs + column : nullptr;
#pragma omp simd
    for (int c = 0; c < count; c++)
      to[c] = value(c) + ((bias ? bias[column + c] : 0) + (old ? old[c] : 0));
  }
};

}  // namespace voicereel
