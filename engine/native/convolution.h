// Causal convolutions over (time, channels), with what comes before and after in the same pass:
// Snake and rounding, bias, the next Snake, the sum with what the layer was given.
//
// Only numbers of a time's own inputs go into it, in one order, so audio depends neither on the window
// nor on who shares the batch.
#pragma once
#include "product.h"
#include "units.h"

namespace voicereel {

constexpr int kTileRows = kUnitRows * kUnitBlocks;  // times whose outputs are computed together
constexpr int64_t kTimes = 512;                     // that a thread takes through a residual unit

inline int64_t rounded_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

// x + sin(alpha x)^2 / alpha, by a polynomial in the square of the distance from the nearest zero.
inline float snake(float x, float turns, float inverse) {  // turns: alpha / pi
  const float turned = x * turns, off = turned - __builtin_rintf(turned), s = off * off;
  float y = -3.3565926551818848f;
  y = y * s + 13.05009937286377f;
  y = y * s - 30.101465225219727f;
  y = y * s + 42.727195739746094f;
  y = y * s - 32.469669342041016f;
  y = y * s + 9.869604110717773f;
  return x + inverse * (y * s);
}

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
  const int32_t* columns;  // zero times the sums of the columns of weights
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

  // A panel of outputs of `rows` times: calls finish(time, numbers) with float32 (kColumns,).
  template <class Finish>
  void multiply(const Input* inputs, int64_t rows, int64_t panel, Finish finish) const {
    const int64_t weights = taps * padded * kColumns * (Format::products > 1 ? 2 : 1);
    for (int64_t begin = 0; begin < rows; begin += kTileRows) {
      const int count = std::min<int64_t>(kTileRows, rows - begin);
      alignas(64) Sum sums[kTileRows * kColumns];
      tiles(inputs + begin * stride * row(), count, panels + panel * weights, sums);
      for (int r = 0; r < count; r++) {
        float numbers[kColumns];
        const Sum* sum = sums + r * kColumns;
        const int64_t first = panel * kColumns;
#pragma omp simd
        for (int c = 0; c < kColumns; c++)
          numbers[c] = (columns ? float(sum[c] - Sum(columns[first + c])) : float(sum[c])) * scale[first + c] + bias[first + c];
        finish(begin + r, numbers);
      }
    }
  }

 private:
  void tiles(const Input* x, int count, const Weight* panel, Sum* sums) const {
    if (Format::step != 16 && has_units()) {
      if (count > kUnitRows) return unit_tiles<2>(x, panel, sums);
      return unit_tiles<1>(x, panel, sums);
    }
    if constexpr (Format::products == 1)
      for (int r = 0; r < count; r += kRows)
        row_tiles<kRows>(std::min(kRows, count - r), x + r * stride * row(), panel, sums + r * kColumns);
  }

  template <int blocks>
  void unit_tiles(const Input* x, const Weight* panel, Sum* sums) const {
#ifdef __AMX_INT8__
    if constexpr (Format::step != 16) {
      const int64_t between = stride * row() * sizeof(Input), block = kUnitRows * stride * row();
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

// x (batch, time, channels) -> y (batch, (time - context) / stride, outputs). Before `hidden`, inputs are zero.
template <class Format>
void convolve(const Convolution<Format>& conv, const float* x, int64_t batch, int64_t time, int64_t hidden, float* y) {
  const int64_t out = conv.outputs_of(time), size = conv.numbers(time), chunk = 8 * kTileRows;
  const int64_t chunks = (out + chunk - 1) / chunk;
  auto* inputs = scratch<typename Format::Input>(batch * size);
#pragma omp parallel num_threads(at::get_num_threads())
  {
#pragma omp for
    for (int64_t i = 0; i < batch * time; i++) {
      const int64_t b = i / time, t = i % time;
      conv.take_row(t < hidden ? nullptr : x + i * conv.channels, inputs + b * size + t * conv.row());
    }
    begin_units();
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < conv.num_panels() * batch * chunks; i++) {
      const int64_t panel = i / (batch * chunks), b = i / chunks % batch, begin = i % chunks * chunk;
      const int64_t first = panel * kColumns, count = std::min<int64_t>(kColumns, conv.outputs - first);
      conv.multiply(inputs + b * size + begin * conv.stride * conv.row(), std::min(chunk, out - begin), panel,
                    [&](int64_t t, const float* numbers) {
                      std::copy(numbers, numbers + count, y + (b * out + begin + t) * conv.outputs + first);
                    });
    }
    end_units();
  }
}

// y = the newest of x + second(first(x)), of equal channels, first's context shorter.
template <class Format>
void residual(const Convolution<Format>& first, const Convolution<Format>& second, const float* x, int64_t batch,
              int64_t time, int64_t hidden, float* y) {
  const int64_t context = first.context(), out = time - context, threads = at::get_num_threads();
  const int64_t times = std::clamp(rounded_up((batch * out + threads - 1) / threads, kTileRows), int64_t(kTileRows), kTimes);
  const int64_t tiles = (out + times - 1) / times;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t i = 0; i < batch * tiles; i++) {
    const int64_t b = i / tiles, begin = i % tiles * times, count = std::min(times, out - begin);
    const float* from = x + (b * time + begin) * first.channels;
    auto* outer = scratch<typename Format::Input>(first.numbers(count + context));
    auto* inner = scratch<typename Format::Input, 1>(second.numbers(count));
    for (int64_t t = 0; t < count + context; t++)
      first.take_row(begin + t < hidden ? nullptr : from + t * first.channels, outer + t * first.row());
    begin_units();
    for (int64_t panel = 0; panel < first.num_panels(); panel++)
      first.multiply(outer, count, panel, [&](int64_t t, const float* numbers) {
        second.take(numbers, panel * kColumns, inner + t * second.row());
      });
    for (int64_t panel = 0; panel < second.num_panels(); panel++) {
      const int64_t c = panel * kColumns, some = std::min<int64_t>(kColumns, second.outputs - c);
      second.multiply(inner, count, panel, [&](int64_t t, const float* numbers) {
        const float* old = from + (context + t) * first.channels + c;
        float* to = y + (b * out + begin + t) * second.outputs + c;
        for (int64_t j = 0; j < some; j++) to[j] = old[j] + numbers[j];
      });
    }
    end_units();
  }
}

}  // namespace voicereel
