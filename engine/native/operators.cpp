// What a step does on a CPU: products, attention over the cache, and sampling, as torch's operators.
//
// A row's result has the same bits whoever shares its batch: each number is a sum in one fixed
// order, by one thread. All arithmetic is float32; weights and cache may be bfloat16, weights int8.
// `engine.kernels` compiles this for the machine it runs on, and calls it.
#include <ATen/ATen.h>
#include <torch/library.h>

#include <optional>

#include "attention.h"
#include "convolution.h"
#include "product.h"
#include "sampling.h"

namespace voicereel {

using at::Tensor;
using MaybeTensor = std::optional<Tensor>;

const float* numbers(const MaybeTensor& tensor) {
  return tensor ? tensor->const_data_ptr<float>() : nullptr;
}

Tensor product(const Tensor& x, const Tensor& panels, int64_t outputs, const MaybeTensor& scales,
               const MaybeTensor& columns, const MaybeTensor& bias, const MaybeTensor& norm,
               double eps, bool gated, const MaybeTensor& residual) {
  const Tensor input = x.contiguous();
  auto shape = input.sizes().vec();
  const int64_t width = shape.back(), depth = gated ? width / 2 : width;
  shape.back() = outputs;
  const int64_t planes = panels.dim() == 5 ? 2 : 1;
  TORCH_CHECK(panels.is_contiguous() && panels.numel() == panels.size(0) * kColumns * depth * planes,
              "product: weights ", panels.sizes(), " do not fit ", x.sizes());
  const Tensor old = residual ? residual->contiguous() : Tensor();
  TORCH_CHECK(panels.scalar_type() != at::kBFloat16 || panels.dim() == 3 || has_units(),
              "product: this CPU has no matrix units, for which the weights were laid out");
  Tensor y = at::empty(shape, input.options());
  const Product job{.x = input.const_data_ptr<float>(),
                    .rows = input.numel() / width,
                    .width = width,
                    .depth = depth,
                    .outputs = outputs,
                    .scales = numbers(scales),
                    .bias = numbers(bias),
                    .norm = numbers(norm),
                    .residual = residual ? old.const_data_ptr<float>() : nullptr,
                    .columns = columns ? columns->const_data_ptr<int32_t>() : nullptr,
                    .eps = float(eps),
                    .gated = gated,
                    .y = y.mutable_data_ptr<float>()};
  switch (panels.scalar_type()) {
    case at::kFloat: job.run(panels.const_data_ptr<float>()); break;
    case at::kBFloat16: {
      const auto weights = (const Bfloat16*)panels.const_data_ptr();
      panels.dim() == 3 ? job.run(weights) : planes == 2 ? job.run_pairs<2>(weights) : job.run_pairs<1>(weights);
      break;
    }
    case at::kChar: job.run(panels.const_data_ptr<int8_t>()); break;
    default: TORCH_CHECK(false, "product: weights are ", panels.scalar_type());
  }
  return y;
}

Tensor attend(const Tensor& qkv, const Tensor& past, const Tensor& cos_sin,
              const MaybeTensor& q_norm, const MaybeTensor& k_norm, double eps, Tensor& keys,
              Tensor& values, const MaybeTensor& begins, int64_t window, const MaybeTensor& shared) {
  const Tensor input = qkv.contiguous(), lengths = past.contiguous();
  const Tensor names = begins ? begins->contiguous() : Tensor();
  const Tensor alike = shared ? shared->contiguous() : Tensor();
  const int64_t* leads = shared ? alike.const_data_ptr<int64_t>() : nullptr;
  const int64_t batch = input.size(0), time = input.size(1), dim = keys.size(3);
  const int64_t kv_heads = keys.size(1), heads = input.size(2) / dim - 2 * kv_heads;
  TORCH_CHECK(keys.strides() == values.strides() && keys.stride(3) == 1 && keys.stride(2) == dim &&
                  keys.size(0) >= batch && heads % kv_heads == 0,
              "attend: a cache of ", keys.sizes(), " does not fit ", qkv.sizes());
  const int64_t* begin = lengths.const_data_ptr<int64_t>();
  for (int64_t b = 0; b < batch; b++)
    TORCH_CHECK(begin[b] >= 0 && begin[b] + time <= std::min(keys.size(2), cos_sin.size(0)),
                "attend: ", begin[b], " and ", time, " positions do not fit ", keys.sizes());
  Tensor y = at::empty({batch, time, heads * dim}, input.options());
  const Tensor queries = at::empty_like(y);
  const Attention job{.qkv = input.const_data_ptr<float>(),
                      .batch = batch,
                      .time = time,
                      .kv_heads = kv_heads,
                      .groups = heads / kv_heads,
                      .dim = dim,
                      .past = begin,
                      .begins = begins ? names.const_data_ptr<int64_t>() : nullptr,
                      .window = window,
                      .leads = leads,
                      .alike = leads ? leads + batch : nullptr,
                      .cos_sin = cos_sin.const_data_ptr<float>(),
                      .q_norm = numbers(q_norm),
                      .k_norm = numbers(k_norm),
                      .eps = float(eps),
                      .row_stride = keys.stride(0),
                      .head_stride = keys.stride(1),
                      .queries = queries.mutable_data_ptr<float>(),
                      .y = y.mutable_data_ptr<float>()};
  if (keys.scalar_type() == at::kFloat)
    job.run(keys.mutable_data_ptr<float>(), values.mutable_data_ptr<float>());
  else
    job.run((Bfloat16*)keys.mutable_data_ptr(), (Bfloat16*)values.mutable_data_ptr());
  return y;
}

Tensor sample(const Tensor& logits, const Tensor& previous, const Tensor& temperature,
              const Tensor& top_p, const Tensor& penalty, const Tensor& noise) {
  Tensor own = logits.to(at::kFloat, false, true).contiguous();
  const Tensor late = previous.contiguous(), chance = noise.contiguous();
  const Tensor options = at::stack({temperature, top_p, penalty});
  const int64_t rows = own.size(0), choices = own.size(1);
  Tensor chosen = at::empty({rows}, previous.options());
  float* numbers = own.mutable_data_ptr<float>();
  const float* option = options.const_data_ptr<float>();
  int64_t* to = chosen.mutable_data_ptr<int64_t>();
#pragma omp parallel for num_threads(at::get_num_threads()) if (rows > 1)
  for (int64_t r = 0; r < rows; r++)
    to[r] = sample_row(numbers + r * choices, choices,
                       late.const_data_ptr<int64_t>() + r * late.size(1), late.size(1), option[r],
                       option[rows + r], option[2 * rows + r],
                       chance.const_data_ptr<float>() + r * choices);
  return chosen;
}

// What a convolution is made of, as `export.codec_kernels.KernelConv` has it.
template <class Format>
Convolution<Format> convolution(const Tensor& x, const Tensor& before, const Tensor& panels,
                                const Tensor& columns, const Tensor& after, int64_t outputs,
                                int64_t taps, int64_t dilation, int64_t stride, double zero) {
  const int64_t padded = before.size(1), wide = after.size(1);
  TORCH_CHECK(before.size(0) == 3 && padded % Format::step == 0 && x.size(-1) <= padded,
              "convolution: inputs ", x.sizes(), " do not fit ", before.sizes());
  TORCH_CHECK(after.size(0) == 2 && columns.size(0) == wide && wide == rounded_up(outputs, kColumns) &&
                  panels.numel() == wide * taps * padded * (Format::products > 1 ? 2 : 1),
              "convolution: ", outputs, " outputs do not fit ", panels.sizes(), after.sizes());
  const float *given = before.const_data_ptr<float>(), *last = after.const_data_ptr<float>();
  return {.channels = x.size(-1),
          .padded = padded,
          .taps = taps,
          .dilation = dilation,
          .stride = stride,
          .outputs = outputs,
          .turns = given,
          .inverse = given + padded,
          .per_step = given + 2 * padded,
          .zero = float(zero),
          .panels = (const typename Format::Weight*)panels.const_data_ptr(),
          .columns = columns.const_data_ptr<int32_t>(),
          .scale = last,
          .bias = last + wide};
}

// Calls back with the format of some weights.
template <class Call>
void with_format(const Tensor& panels, Call call) {
  switch (panels.scalar_type()) {
    case at::kFloat: return call(Singles());
    case at::kChar: return call(Bytes());
    case at::kBFloat16:
      TORCH_CHECK(has_units(), "convolution: this CPU has no matrix units for bfloat16");
      return call(Pairs());
    default: TORCH_CHECK(false, "convolution: weights are ", panels.scalar_type());
  }
}

Tensor convolve_(const Tensor& x, const Tensor& before, const Tensor& panels, const Tensor& columns,
                 const Tensor& after, int64_t outputs, int64_t taps, int64_t dilation, int64_t stride, double zero,
                 int64_t hidden) {
  const Tensor input = x.contiguous();
  const int64_t batch = x.size(0), time = x.size(1);
  Tensor y;
  with_format(panels, [&](auto format) {
    const auto conv = convolution<decltype(format)>(x, before, panels, columns, after, outputs, taps, dilation, stride, zero);
    y = at::empty({batch, conv.outputs_of(time), outputs}, input.options());
    convolve(conv, input.const_data_ptr<float>(), batch, time, hidden, y.mutable_data_ptr<float>());
  });
  return y;
}

// Of each convolution: outputs, taps, dilation, times of an output, how many of all these are not
// wanted, whether it is the second of a residual unit. `hidden` is of each layer.
Tensor chain_(const Tensor& x, at::TensorList before, at::TensorList panels, at::TensorList columns,
              at::TensorList after, at::IntArrayRef shapes, at::ArrayRef<double> zeros, at::IntArrayRef hidden) {
  const Tensor input = x.contiguous();
  TORCH_CHECK(shapes.size() == 6 * panels.size(), "chain: ", shapes.size(), " numbers for ", panels.size(), " convolutions");
  Chain chain;
  for (size_t i = 0; i < panels.size(); i++) {
    const int64_t* shape = shapes.data() + 6 * i;
    const Tensor inputs = i == 0 ? input : at::empty({0, chain.width()}, input.options());
    with_format(panels[i], [&](auto format) {
      using Format = decltype(format);
      const auto conv = convolution<Format>(inputs, before[i], panels[i], columns[i], after[i], shape[0], shape[1], shape[2], 1, zeros[i]);
      TORCH_CHECK(!shape[5] || (shape[1] == 1 && panels[i].scalar_type() == panels[i - 1].scalar_type()),
                  "chain: a residual unit ends with a convolution of one tap, as precise as its first");
      if (shape[5]) return (void)(static_cast<ConvolutionLayer<Format>&>(*chain.layers.back()).second = conv);
      auto layer = std::make_unique<ConvolutionLayer<Format>>(conv);
      layer->hidden = hidden[chain.layers.size()], layer->ratio = shape[3], layer->surplus = shape[4];
      chain.layers.push_back(std::move(layer));
    });
  }
  const int64_t batch = x.size(0), time = x.size(1);
  Tensor y = at::empty({batch, chain.outputs_of(time), chain.width()}, input.options());
  chain.run(input.const_data_ptr<float>(), batch, time, y.mutable_data_ptr<float>());
  return y;
}

}  // namespace voicereel

TORCH_LIBRARY(voicereel, library) {
  library.def(
      "product(Tensor x, Tensor panels, int outputs, Tensor? scales, Tensor? columns, "
      "Tensor? bias, Tensor? norm, float eps, bool gated, Tensor? residual) -> Tensor");
  library.def(
      "convolve(Tensor x, Tensor before, Tensor panels, Tensor columns, Tensor after, int outputs, "
      "int taps, int dilation, int stride, float zero, int hidden) -> Tensor");
  library.def(
      "chain(Tensor x, Tensor[] before, Tensor[] panels, Tensor[] columns, Tensor[] after, int[] shapes, "
      "float[] zeros, int[] hidden) -> Tensor");
  library.def("has_units() -> bool", voicereel::has_units);
  library.def(
      "attend(Tensor qkv, Tensor past, Tensor cos_sin, Tensor? q_norm, Tensor? k_norm, float eps, "
      "Tensor(a!) keys, Tensor(b!) values, Tensor? begins=None, int window=4611686018427387904, Tensor? shared=None) -> Tensor");
  library.def(
      "sample(Tensor logits, Tensor previous, Tensor temperature, Tensor top_p, Tensor penalty, "
      "Tensor noise) -> Tensor");
}

TORCH_LIBRARY_IMPL(voicereel, CPU, library) {
  library.impl("product", voicereel::product);
  library.impl("attend", voicereel::attend);
  library.impl("convolve", voicereel::convolve_);
  library.impl("chain", voicereel::chain_);
  library.impl("sample", voicereel::sample);
}
