// Causal convolutions over (time, channels), with Snake and rounding before them and the bias after
// them in the same pass.
//
// An output is a sum of products of its own inputs, in one order. So it depends neither on where the
// window begins nor on what else is in the batch.
#pragma once
#include <ATen/Parallel.h>

#include "ops/product.h"
#include "ops/snake.h"
#include "simd/amx.h"

namespace voicereel {

// Times whose outputs are computed together: what the registers of matrix units hold.
constexpr int kTileRows = kUnitRows * kUnitBlocks;

// How a convolution sees its inputs and weights. `planes` times `padded` numbers are a row.
struct Bytes {  // 8-bit integers: sums are exact
  using Input = uint8_t;
  using Weight = int8_t;
  using Sum = int32_t;
  static constexpr int planes = 1, products = 1, step = kUnitBytes;

  static void put(const float* x, int count, float zero, Input* to, int64_t) {
#ifdef __AVX512F__  // gcc 12 takes four times as many instructions
    const __m512 zeros = _mm512_set1_ps(zero);
    for (int i = 0; i < count; i += kLanes) {
      const __m512 raised = _mm512_max_ps(_mm512_add_ps(_mm512_loadu_ps(x + i), zeros), _mm512_setzero_ps());
      _mm_storeu_si128((__m128i*)(to + i), _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(raised)));
    }
#else
#pragma omp simd
    for (int i = 0; i < count; i++)
      to[i] = uint8_t(int32_t(__builtin_rintf(std::min(std::max(x[i] + zero, 0.f), 255.f))));
#endif
  }
};

struct Pairs {  // each number as the sum of two bfloat16: float32, but for 1 in 2^16
  using Input = Bfloat16;
  using Weight = Bfloat16;
  using Sum = float;
  static constexpr int planes = 2, products = 3, step = kUnitBytes / 2;

  static void put(const float* x, int count, float, Input* to, int64_t padded) {
    split_row(x, count, to, to + padded);
  }
};

struct Singles {  // float32
  using Input = float;
  using Weight = float;
  using Sum = float;
  static constexpr int planes = 1, products = 1, step = 16;

  static void put(const float* x, int count, float, Input* to, int64_t) { std::copy(x, x + count, to); }
};

template <class Format>
struct Convolution {
  using Input = typename Format::Input;
  using Weight = typename Format::Weight;
  using Sum = typename Format::Sum;

  int64_t channels, padded, taps, dilation, stride, outputs;
  const float *turns, *inverse, *per_step;  // of each channel
  float zero;
  const Weight* panels;
  const int32_t* columns;  // zero times the sums of the columns of 8-bit weights; else 0
  const float *scale, *bias;

  int64_t context() const { return (taps - 1) * dilation; }
  int64_t outputs_of(int64_t times) const { return times > context() ? (times - context() - 1) / stride + 1 : 0; }
  int64_t row() const { return Format::planes * padded; }
  int64_t num_panels() const { return (outputs + kColumns - 1) / kColumns; }
  // Memory for so many rows; products read on beyond them, to no effect.
  int64_t numbers(int64_t rows) const { return (rows + kTileRows * stride) * row(); }

  // kColumns channels from `first` on, of one time.
  void take(const float* x, int64_t first, Input* to) const {
    float rounded[kColumns];
#pragma omp simd
    for (int i = 0; i < kColumns; i++)
      rounded[i] = snake(x[i], turns[first + i], inverse[first + i]) * per_step[first + i];
    Format::put(rounded, kColumns, zero, to + first, padded);
  }

  // One time of x; null: before the first, where inputs are zero.
  void take_row(const float* x, Input* to) const {
    float part[kColumns] = {};
    for (int64_t first = 0; first < padded; first += kColumns) {
      const int64_t count = x ? std::clamp<int64_t>(channels - first, 0, kColumns) : 0;
      if (count == kColumns) {
        take(x + first, first, to);
        continue;
      }
      std::fill(std::copy(x + first, x + first + count, part), part + kColumns, 0.f);
      take(part, first, to);
    }
  }

  int64_t panel_numbers() const { return taps * padded * kColumns * (Format::products > 1 ? 2 : 1); }

  // All outputs of `rows` times: calls finish(time, first column, numbers) with float32 (kColumns,).
  // Sums are finished while matrix units compute the next ones.
  template <class Finish>
  void multiply(const Input* inputs, int64_t rows, int64_t first_panel, int64_t last_panel, Finish finish) const {
    alignas(64) Sum sums[2][kTileRows * kColumns];
    int64_t time = 0, column = 0;
    int which = 0, count = 0, done = 0;  // rows of the last tile; those that are finished
    const auto finish_some = [&](int some) {
      for (const int end = std::min(count, done + some); done < end; done++) {
        float numbers[kColumns];
        const Sum* sum = sums[!which] + done * kColumns;
#pragma omp simd
        for (int c = 0; c < kColumns; c++)
          numbers[c] = float(sum[c] - Sum(columns[column + c])) * scale[column + c] + bias[column + c];
        finish(time + done, column, numbers);
      }
    };
    for (int64_t panel = first_panel; panel < last_panel; panel++)
      for (int64_t begin = 0; begin < rows; begin += kTileRows) {
        const int more = std::min<int64_t>(kTileRows, rows - begin);
        tiles(inputs + begin * stride * row(), more, panels + panel * panel_numbers(), sums[which], finish_some);
        finish_some(kTileRows);
        time = begin, column = panel * kColumns, count = more, done = 0, which = !which;
      }
    finish_some(kTileRows);
  }

 private:
  template <class Meanwhile>  // (rows)
  void tiles(const Input* x, int count, const Weight* panel, Sum* sums, Meanwhile meanwhile) const {
    if (Format::step != 16 && has_units()) {
      if (count > kUnitRows) return unit_tiles<2>(x, panel, sums, meanwhile);
      return unit_tiles<1>(x, panel, sums, meanwhile);
    }
    if constexpr (Format::products == 1)
      for (int r = 0; r < count; r += kRows)
        row_tiles<kRows>(std::min(kRows, count - r), x + r * stride * row(), panel, sums + r * kColumns);
  }

  template <int blocks, class Meanwhile>
  void unit_tiles(const Input* x, const Weight* panel, Sum* sums, Meanwhile meanwhile) const {
#ifdef __AMX_INT8__
    if constexpr (Format::step != 16) {
      const int64_t between = stride * row() * sizeof(Input), block = kUnitRows * stride * row();
      const int some = std::max<int64_t>(1, kTileRows * Format::step / (taps * padded));
      begin_sums<blocks>();
      for (int64_t tap = 0; tap < taps; tap++, x += dilation * row())
        for (int64_t k = 0; k < padded; k += Format::step) {
          load_panel(panel);
          multiply_rows<blocks>(x + k, between, block);
          panel += Format::step * kColumns;
          if constexpr (Format::products == 3) {
            multiply_rows<blocks>(x + padded + k, between, block);
            load_panel(panel);
            multiply_rows<blocks>(x + k, between, block);
            panel += Format::step * kColumns;
          }
          meanwhile(some);
        }
      end_sums<blocks>(sums);
    }
#endif
  }

  template <int rows>
  void row_tiles(int count, const Input* x, const Weight* panel, Sum* sums) const {
    if constexpr (rows > 0) {
      if (count < rows) return row_tiles<rows - 1>(count, x, panel, sums);
      constexpr int dot = sizeof(Input) == 1 ? kDot : 1;
      using Lanes = std::conditional_t<sizeof(Input) == 1, Ints, Floats>;
      Lanes sum[rows][kSums] = {};
      for (int64_t tap = 0; tap < taps; tap++, x += dilation * row())
        for (int64_t k = 0; k < padded; k += dot, panel += dot * kColumns)
#pragma GCC unroll 8
          for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
            for (int c = 0; c < kSums; c++) {
              const Weight* weights = panel + c * kLanes * dot;
              if constexpr (dot == kDot) sum[r][c] = with_products(sum[r][c], x + r * stride * row() + k, weights);
              else sum[r][c] += x[r * stride * row() + k] * lanes(weights);
            }
      __builtin_memcpy(sums, sum, sizeof sum);
    }
  }
};

// x (batch, time, channels) -> y (batch, (time - context) / stride, outputs). Inputs before the time
// `audio_begin` are zero.
template <class Format>
void convolve(const Convolution<Format>& conv, const float* x, int64_t batch, int64_t time, int64_t audio_begin, float* y) {
  const int64_t out = conv.outputs_of(time), size = conv.numbers(time), chunk = 8 * kTileRows;
  const int64_t chunks = (out + chunk - 1) / chunk;
  auto* inputs = scratch<typename Format::Input>(batch * size);
#pragma omp parallel num_threads(at::get_num_threads())
  {
#pragma omp for
    for (int64_t i = 0; i < batch * time; i++) {
      const int64_t b = i / time, t = i % time;
      conv.take_row(t < audio_begin ? nullptr : x + i * conv.channels, inputs + b * size + t * conv.row());
    }
    begin_units();
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < conv.num_panels() * batch * chunks; i++) {
      const int64_t panel = i / (batch * chunks), b = i / chunks % batch, begin = i % chunks * chunk;
      const int64_t first = panel * kColumns, count = std::min<int64_t>(kColumns, conv.outputs - first);
      conv.multiply(inputs + b * size + begin * conv.stride * conv.row(), std::min(chunk, out - begin), panel, panel + 1,
                    [&](int64_t t, int64_t, const float* numbers) {
                      std::copy(numbers, numbers + count, y + (b * out + begin + t) * conv.outputs + first);
                    });
    }
    end_units();
  }
}

}  // namespace voicereel
