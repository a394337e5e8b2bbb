// Convolutions and residual units one behind the other, over (time, channels).
#pragma once
#include <memory>
#include <optional>
#include <vector>

#include "ops/convolution.h"

namespace voicereel {

// A layer of a chain: a convolution, each of whose outputs may be several times, or a residual unit of
// two convolutions. It is fed inputs in order, some times at once, and keeps what later outputs need.
struct Layer {
  int64_t ratio = 1;        // times that an output holds
  int64_t surplus = 0;      // how many of the first of all these times are left out
  int64_t audio_begin = 0;  // inputs before this time are zero

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
      first.take_row(next < audio_begin ? nullptr : x + t * channels(), inputs + kept * first.row());
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

// Layers one behind the other, in pieces of time, so that what lies between them stays in a core's
// cache.
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
    int64_t twice = 0;  // outputs that a piece computes beyond its own, and its neighbour too
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
  static constexpr int64_t kPieces = 4;  // per thread, so that none waits long for the last one
  // A piece is at least this many times as long as the context that it computes again: 8 % more work.
  static constexpr int64_t kWorth = 12;
  // Numbers between two layers: 512 KB of float32, which stay in a core's second-level cache.
  static constexpr int64_t kNumbers = 1 << 17;
  // A layer is fed a time for every so many bytes of its weights at least, so that reading them costs
  // little beside multiplying them.
  static constexpr int64_t kBytes = 16384;

  void run_piece(const float* x, int64_t begin, int64_t end, float* y) const {
    std::vector<int64_t> unwanted;  // outputs at the beginning to drop, those of the last layer first
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
