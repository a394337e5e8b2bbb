// Causal convolutions over (time, channels), with what comes before and after in the same pass:
// Snake and rounding, bias, the next Snake, the sum with what the layer was given.
//
// Only numbers of a time's own inputs go into it, in one order, so audio depends neither on the window
// nor on who shares the batch.
#pragma once
#include <ATen/Parallel.h>

#include <memory>
#include <optional>

#include "product.h"
#include "units.h"

namespace voicereel {

constexpr int kTileRows = kUnitRows * kUnitBlocks;  // times whose outputs are computed together

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
  // What is done with sums is done while matrix units compute the next ones.
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
  void unit_tiles([[maybe_unused]] const Input* x, [[maybe_unused]] const Weight* panel,
                  [[maybe_unused]] Sum* sums, [[maybe_unused]] Meanwhile meanwhile) const {
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
      conv.multiply(inputs + b * size + begin * conv.stride * conv.row(), std::min(chunk, out - begin), panel, panel + 1,
                    [&](int64_t t, int64_t, const float* numbers) {
                      std::copy(numbers, numbers + count, y + (b * out + begin + t) * conv.outputs + first);
                    });
    }
    end_units();
  }
}

// A layer of a chain: a convolution, each of whose outputs may be several times, or a residual unit of
// two. It is fed times in order, some at once, and keeps those inputs that later outputs need.
struct Layer {
  int64_t ratio = 1, surplus = 0;  // times of an output; the first of them all that are not wanted
  int64_t hidden = 0;              // inputs before this time are zero

  virtual ~Layer() = default;
  virtual int64_t channels() const = 0;
  virtual int64_t width() const = 0;  // of a time that goes out
  virtual int64_t context() const = 0;
  virtual int64_t weight_bytes() const = 0;
  virtual bool in_place() const = 0;
  // A copy that is ready for inputs from time `begin` on, at most `most` at once.
  virtual std::unique_ptr<Layer> started(int64_t begin, int64_t most) const = 0;
  // x (count, channels) -> y (outputs, width); returns how many outputs there are.
  virtual int64_t feed(const float* x, int64_t count, float* y) = 0;
};

template <class Format>
struct ConvolutionLayer : Layer {
  using Input = typename Format::Input;
  Convolution<Format> first;
  std::optional<Convolution<Format>> second;  // then inputs are added to outputs
  int64_t next = 0, kept = 0;                 // the time that comes next; inputs that wait for it
  std::unique_ptr<Input[]> outer, inner;

  explicit ConvolutionLayer(const Convolution<Format>& conv) : first(conv) {}
  ConvolutionLayer(const ConvolutionLayer& other) : Layer(other), first(other.first), second(other.second) {}

  int64_t channels() const override { return first.channels; }
  int64_t width() const override { return first.outputs / ratio; }
  int64_t context() const override { return first.context(); }
  int64_t weight_bytes() const override { return first.num_panels() * first.panel_numbers() * sizeof *first.panels; }
  bool in_place() const override { return second.has_value(); }

  std::unique_ptr<Layer> started(int64_t begin, int64_t most) const override {
    auto own = std::make_unique<ConvolutionLayer>(*this);
    own->next = begin;
    own->outer = std::make_unique_for_overwrite<Input[]>(first.numbers(context() + most));
    if (second) own->inner = std::make_unique_for_overwrite<Input[]>(second->numbers(most));
    return own;
  }

  int64_t feed(const float* x, int64_t count, float* y) override {
    Input* inputs = outer.get();
    for (int64_t t = 0; t < count; t++, next++, kept++)
      first.take_row(next < hidden ? nullptr : x + t * channels(), inputs + kept * first.row());
    const int64_t outputs = first.outputs_of(kept);
    if (second) {
      const float* old = x + (count - outputs) * channels();
      Input* between = inner.get();
      each_panel(first, inputs, outputs, [&](int64_t t, int64_t column, int64_t, const float* numbers) {
        second->take(numbers, column, between + t * second->row());
      });
      each_panel(*second, between, outputs, [&](int64_t t, int64_t column, int64_t some, const float* numbers) {
        const int64_t at = t * channels() + column;
        for (int64_t j = 0; j < some; j++) y[at + j] = old[at + j] + numbers[j];
      });
    } else {
      each_panel(first, inputs, outputs, [&](int64_t t, int64_t column, int64_t some, const float* numbers) {
        std::copy(numbers, numbers + some, y + t * first.outputs + column);
      });
    }
    kept -= outputs;
    std::copy(inputs + outputs * first.row(), inputs + (outputs + kept) * first.row(), inputs);
    return outputs;
  }

 private:
  template <class Finish>  // (time, first column, how many, their numbers)
  static void each_panel(const Convolution<Format>& conv, const Input* inputs, int64_t rows, Finish finish) {
    conv.multiply(inputs, rows, 0, conv.num_panels(), [&](int64_t t, int64_t column, const float* numbers) {
      finish(t, column, std::min<int64_t>(kColumns, conv.outputs - column), numbers);
    });
  }
};

// Layers one behind the other, in pieces of time: what lies between them stays in a core's cache.
struct Chain {
  std::vector<std::unique_ptr<Layer>> layers;

  int64_t width() const { return layers.back()->width(); }

  int64_t outputs_of(int64_t times) const {
    for (const auto& layer : layers)
      times = std::max<int64_t>(0, times - layer->context()) * layer->ratio - layer->surplus;
    return std::max<int64_t>(0, times);
  }

  // x (batch, time, channels) -> y (batch, outputs, width).
  void run(const float* x, int64_t batch, int64_t time, float* y) const {
    const int64_t out = outputs_of(time), threads = at::get_num_threads(), total = batch * out;
    int64_t twice = 0;  // outputs that a piece has to compute beyond its own
    for (const auto& layer : layers) twice = (twice + layer->context()) * layer->ratio;
    int64_t piece = std::max(total / (threads * kPieces), twice * kWorth);
    piece = std::min(rounded_up(std::min(piece, (total + threads - 1) / threads), kTileRows), out);
    const int64_t pieces = (out + piece - 1) / piece;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t i = 0; i < batch * pieces; i++) {
      const int64_t b = i / pieces, begin = i % pieces * piece;
      run_piece(x + b * time * layers[0]->channels(), begin, std::min(out, begin + piece), y + b * out * width());
    }
  }

 private:
  static constexpr int64_t kPieces = 4, kWorth = 12;  // of a thread; as long as what is computed twice
  static constexpr int64_t kNumbers = 1 << 17, kBytes = 16384;  // between layers; of weights for a time

  void run_piece(const float* x, int64_t begin, int64_t end, float* y) const {
    std::vector<int64_t> unwanted;  // outputs at the beginning, of the last layer first
    int64_t from = begin, to = end;  // times of x
    for (auto layer = layers.rbegin(); layer != layers.rend(); layer++) {
      const int64_t ratio = (*layer)->ratio, first = from + (*layer)->surplus, last = to + (*layer)->surplus;
      unwanted.push_back(first % ratio);
      from = first / ratio;
      to = (last + ratio - 1) / ratio + (*layer)->context();
    }
    int64_t widest = layers[0]->channels(), most = kTileRows, scale = 1;
    for (const auto& layer : layers) {
      scale *= layer->ratio;
      widest = std::max(widest, scale * layer->width());
      most = std::max(most, layer->weight_bytes() / kBytes);
    }
    most = std::min(std::max(most, kNumbers / widest), to - from);
    std::vector<std::unique_ptr<Layer>> own;
    int64_t time = from, at_once = most;
    for (const auto& layer : layers) {
      own.push_back(layer->started(time, at_once));
      time = time * layer->ratio + unwanted[layers.size() - own.size()] - layer->surplus;
      at_once *= layer->ratio;
    }
    float *here = scratch<float, 2>(most * widest), *there = scratch<float, 3>(most * widest);
    begin_units();
    for (const int64_t channels = layers[0]->channels(); begin < end;) {
      int64_t count = std::min(most, to - from);
      float* rows = here;
      std::copy(x + from * channels, x + (from + count) * channels, rows);
      from += count;
      for (size_t k = 0; k < own.size(); k++) {
        float* y = own[k]->in_place() ? rows : there;
        count = own[k]->feed(rows, count, y) * own[k]->ratio;
        if (!own[k]->in_place()) std::swap(here, there);
        int64_t& rest = unwanted[own.size() - 1 - k];
        const int64_t skipped = std::min(rest, count);
        rest -= skipped, count -= skipped;
        rows = y + skipped * own[k]->width();
      }
      count = std::min(count, end - begin);
      std::copy(rows, rows + count * width(), y + begin * width());
      begin += count;
    }
    end_units();
  }
};

}  // namespace voicereel
