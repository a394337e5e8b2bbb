// The operators as torch's: they check shapes, allocate outputs and call what lies in ops/.
//
// A row's result has the same bits whatever else is in its batch: each number is a sum in one fixed
// order, by one thread. All arithmetic is float32; weights and cache may be bfloat16, weights int8.
// `engine.kernels.build` compiles this file for the machine that it runs on.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>
#include <torch/library.h>

#include <optional>

#include "ops/attention.h"
#include "ops/chain.h"
#include "ops/convolution.h"
#include "ops/product.h"
#include "ops/sampling.h"

namespace voicereel {

using at::Tensor;
using MaybeTensor = std::optional<Tensor>;

template <class T>
const T* numbers(const Tensor& tensor) {  // null where the tensor is empty
  return tensor.numel() ? tensor.const_data_ptr<T>() : nullptr;
}

// A product with the weights of `engine.kernels.transformer.FusedLinear`; its rows come later.
Product product_of(const Tensor& panels, const Tensor& scales, const Tensor& columns, const Tensor& bias,
                   const Tensor& norm, double eps, int64_t rows, int64_t depth, int64_t outputs, bool gated) {
  using Weights = Product::Weights;
  const auto type = panels.scalar_type();
  TORCH_CHECK(type == at::kFloat || type == at::kBFloat16 || type == at::kChar || type == at::kByte,
              "product: weights are ", type);
  const bool is_split = panels.dim() == 5, in_pairs = panels.dim() == 4, in_groups = type == at::kByte;
  const int64_t numbers_of_panel = in_groups ? depth / kGroup * int64_t(sizeof(Group)) : kColumns * depth * (is_split ? 2 : 1);
  TORCH_CHECK(panels.is_contiguous() && panels.numel() == panels.size(0) * numbers_of_panel &&
                  panels.size(0) == rounded_up(outputs, kColumns) / kColumns && (!in_groups || depth % kGroup == 0),
              "product: weights ", panels.sizes(), " do not fit ", depth, " inputs and ", outputs, " outputs");
  TORCH_CHECK(type != at::kBFloat16 || panels.dim() == 3 || has_units(),
              "product: this CPU has no matrix units, for which the weights were laid out");
  return {.rows = rows,
          .width = gated ? 2 * depth : depth,
          .depth = depth,
          .outputs = outputs,
          .kind = type == at::kChar    ? Weights::bytes
                  : in_groups          ? Weights::groups
                  : type == at::kFloat ? Weights::floats
                  : is_split           ? Weights::split_pairs
                  : in_pairs           ? Weights::pairs
                                       : Weights::halves,
          .weights = panels.const_data_ptr(),
          .scales = numbers<float>(scales),
          .bias = numbers<float>(bias),
          .norm = numbers<float>(norm),
          .columns = numbers<int32_t>(columns),
          .eps = float(eps),
          .gated = gated};
}

Tensor product(const Tensor& x, const Tensor& panels, int64_t outputs, const Tensor& scales, const Tensor& columns,
               const Tensor& bias, const Tensor& norm, double eps, bool gated, const MaybeTensor& residual) {
  const Tensor input = x.contiguous();
  auto shape = input.sizes().vec();
  const int64_t width = shape.back();
  shape.back() = outputs;
  const Tensor old = residual ? residual->contiguous() : Tensor();
  Tensor y = at::empty(shape, input.options());
  Product job = product_of(panels, scales, columns, bias, norm, eps, input.numel() / width, gated ? width / 2 : width,
                           outputs, gated);
  job.x = input.const_data_ptr<float>();
  job.residual = residual ? old.const_data_ptr<float>() : nullptr;
  job.y = y.mutable_data_ptr<float>();
  char* memory = scratch<char, 2>(job.memory_bytes());
#pragma omp parallel num_threads(at::get_num_threads()) if (job.worth_threads())
  job.run(memory);
  return y;
}

// All layers of a transformer, of four products each: queries, keys and values; attention's output;
// gate and up; down. `outputs` are the products', `head_norms` (layers, 2, dim) the weights of queries'
// and keys' norms, or empty.
Tensor layers(const Tensor& x, const Tensor& past, const Tensor& cos_sin, at::TensorList panels,
              at::TensorList scales, at::TensorList columns, at::TensorList biases, at::TensorList norms,
              at::IntArrayRef outputs, const Tensor& head_norms, double eps, Tensor& keys, Tensor& values,
              const MaybeTensor& begins, int64_t window, const MaybeTensor& shared) {
  const int64_t count = keys.size(0), batch = x.size(0), time = x.size(1), rows = batch * time;
  const int64_t dim = keys.size(4), kv_heads = keys.size(2), heads = outputs[0] / dim - 2 * kv_heads;
  TORCH_CHECK(int64_t(panels.size()) == 4 * count && outputs.size() == 4 && outputs[1] == x.size(2) &&
                  outputs[3] == x.size(2) && outputs[0] % dim == 0 && heads > 0 && heads % kv_heads == 0,
              "layers: ", panels.size(), " products of ", outputs, " outputs do not fit inputs ", x.sizes(),
              " and a cache of ", keys.sizes());
  TORCH_CHECK(keys.strides() == values.strides() && keys.scalar_type() == values.scalar_type() &&
                  keys.stride(4) == 1 && keys.stride(3) == dim && keys.size(1) >= batch,
              "layers: a cache of ", keys.sizes(), " does not fit ", x.sizes());
  const Tensor lengths = past.contiguous(), names = begins ? begins->contiguous() : Tensor();
  const Tensor prefixes = shared ? shared->contiguous() : Tensor();
  const int64_t *begin = lengths.const_data_ptr<int64_t>(), *leads = shared ? prefixes.const_data_ptr<int64_t>() : nullptr;
  for (int64_t b = 0; b < batch; b++)
    TORCH_CHECK(begin[b] >= 0 && begin[b] + time <= std::min(keys.size(3), cos_sin.size(0)),
                "layers: ", begin[b], " and ", time, " positions do not fit ", keys.sizes());
  Tensor y = x.clone(at::MemoryFormat::Contiguous);
  float* qkv = scratch<float, 2>(rows * (outputs[0] + 2 * heads * dim + outputs[2]));
  float *queries = qkv + rows * outputs[0], *attended = queries + rows * heads * dim, *gates = attended + rows * heads * dim;
  Attention attention{.qkv = qkv,
                      .batch = batch,
                      .time = time,
                      .kv_heads = kv_heads,
                      .groups = heads / kv_heads,
                      .dim = dim,
                      .past = begin,
                      .begins = begins ? names.const_data_ptr<int64_t>() : nullptr,
                      .window = window,
                      .leads = leads,
                      .shared = leads ? leads + batch : nullptr,
                      .cos_sin = cos_sin.const_data_ptr<float>(),
                      .eps = float(eps),
                      .row_stride = keys.stride(1),
                      .head_stride = keys.stride(2),
                      .queries = queries,
                      .y = attended};
  float* const stream = y.mutable_data_ptr<float>();
  const float* inputs[] = {stream, attended, stream, gates};
  float* results[] = {qkv, stream, gates, stream};
  const int64_t depths[] = {x.size(2), heads * dim, x.size(2), outputs[2] / 2};
  std::vector<Product> products;
  int64_t bytes = 0;
  for (size_t i = 0; i < panels.size(); i++) {
    const int k = i % 4;
    Product job = product_of(panels[i], scales[i], columns[i], biases[i], norms[i], eps, rows, depths[k], outputs[k], k == 3);
    job.x = inputs[k], job.y = results[k], job.residual = k % 2 ? stream : nullptr;
    bytes = std::max(bytes, job.memory_bytes());
    products.push_back(job);
  }
  char* memory = scratch<char, 2>(bytes);
  const float* normed = numbers<float>(head_norms);
  // One team of threads for all products, since waking it takes longer than some of them.
#pragma omp parallel num_threads(at::get_num_threads()) if (products[2].worth_threads()) firstprivate(attention)
  for (int64_t i = 0; i < count; i++) {
    attention.q_norm = normed ? normed + 2 * i * dim : nullptr;
    attention.k_norm = normed ? normed + (2 * i + 1) * dim : nullptr;
    const int64_t at = i * keys.stride(0);
    products[4 * i].run(memory);
    if (keys.scalar_type() == at::kFloat)
      attention.run(keys.mutable_data_ptr<float>() + at, values.mutable_data_ptr<float>() + at);
    else
      attention.run((Bfloat16*)keys.mutable_data_ptr() + at, (Bfloat16*)values.mutable_data_ptr() + at);
    for (int k = 1; k < 4; k++) products[4 * i + k].run(memory);
  }
  return y;
}

Tensor sample(const Tensor& logits, const Tensor& previous, const Tensor& temperature,
              const Tensor& top_p, const Tensor& penalty, const Tensor& noise, const MaybeTensor& top_k) {
  Tensor own = logits.to(at::kFloat, false, true).contiguous();
  const Tensor recent = previous.contiguous(), chance = noise.contiguous();
  const Tensor options = at::stack({temperature, top_p, penalty});
  const Tensor most = top_k ? top_k->contiguous() : Tensor();
  TORCH_CHECK(!top_k || (most.scalar_type() == at::kLong && most.numel() == own.size(0)),
              "sample: top_k must be int64, one for each row");
  const int64_t rows = own.size(0), choices = own.size(1);
  Tensor chosen = at::empty({rows}, previous.options());
  float* numbers = own.mutable_data_ptr<float>();
  const float* option = options.const_data_ptr<float>();
  int64_t* to = chosen.mutable_data_ptr<int64_t>();
#pragma omp parallel for num_threads(at::get_num_threads()) if (rows > 1)
  for (int64_t r = 0; r < rows; r++)
    to[r] = sample_row(numbers + r * choices, choices,
                       recent.const_data_ptr<int64_t>() + r * recent.size(1), recent.size(1), option[r],
                       option[rows + r], option[2 * rows + r],
                       chance.const_data_ptr<float>() + r * choices,
                       top_k ? most.const_data_ptr<int64_t>()[r] : 0);
  return chosen;
}

// A convolution with the weights of `engine.kernels.convolution.FusedConv`.
template <class Format>
Convolution<Format> convolution(const Tensor& x, const Tensor& per_input, const Tensor& panels,
                                const Tensor& columns, const Tensor& per_output, int64_t outputs,
                                int64_t taps, int64_t dilation, int64_t stride, double zero) {
  const int64_t padded = per_input.size(1), wide = per_output.size(1);
  TORCH_CHECK(per_input.size(0) == 3 && padded % Format::step == 0 && x.size(-1) <= padded,
              "convolution: inputs ", x.sizes(), " do not fit ", per_input.sizes());
  TORCH_CHECK(per_output.size(0) == 2 && columns.size(0) == wide && wide == rounded_up(outputs, kColumns) &&
                  panels.numel() == wide * taps * padded * (Format::products > 1 ? 2 : 1),
              "convolution: ", outputs, " outputs do not fit ", panels.sizes(), per_output.sizes());
  const float *given = per_input.const_data_ptr<float>(), *last = per_output.const_data_ptr<float>();
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

// Calls back with the format that weights of this type have.
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

Tensor convolve_(const Tensor& x, const Tensor& per_input, const Tensor& panels, const Tensor& columns,
                 const Tensor& per_output, int64_t outputs, int64_t taps, int64_t dilation, int64_t stride, double zero,
                 int64_t audio_begin) {
  const Tensor input = x.contiguous();
  const int64_t batch = x.size(0), time = x.size(1);
  Tensor y;
  with_format(panels, [&](auto format) {
    const auto conv = convolution<decltype(format)>(x, per_input, panels, columns, per_output, outputs, taps, dilation, stride, zero);
    y = at::empty({batch, conv.outputs_of(time), outputs}, input.options());
    convolve(conv, input.const_data_ptr<float>(), batch, time, audio_begin, y.mutable_data_ptr<float>());
  });
  return y;
}

// `shapes` has six numbers for each convolution: outputs, taps, dilation, times that an output holds,
// how many of the first of all these times are left out, and whether it is the second convolution of a
// residual unit. `audio_begin` has one for each layer.
Tensor chain_(const Tensor& x, at::TensorList per_input, at::TensorList panels, at::TensorList columns,
              at::TensorList per_output, at::IntArrayRef shapes, at::ArrayRef<double> zeros, at::IntArrayRef audio_begin) {
  const Tensor input = x.contiguous();
  TORCH_CHECK(shapes.size() == 6 * panels.size(), "chain: ", shapes.size(), " numbers for ", panels.size(), " convolutions");
  Chain chain;
  for (size_t i = 0; i < panels.size(); i++) {
    const int64_t* shape = shapes.data() + 6 * i;
    const Tensor inputs = i == 0 ? input : at::empty({0, chain.width()}, input.options());
    with_format(panels[i], [&](auto format) {
      using Format = decltype(format);
      const auto conv = convolution<Format>(inputs, per_input[i], panels[i], columns[i], per_output[i], shape[0], shape[1], shape[2], 1, zeros[i]);
      TORCH_CHECK(!shape[5] || (shape[1] == 1 && panels[i].scalar_type() == panels[i - 1].scalar_type()),
                  "chain: a residual unit ends with a convolution of one tap, as precise as its first");
      if (shape[5]) return (void)(static_cast<ConvolutionLayer<Format>&>(*chain.layers.back()).second = conv);
      auto layer = std::make_unique<ConvolutionLayer<Format>>(conv);
      layer->audio_begin = audio_begin[chain.layers.size()], layer->ratio = shape[3], layer->surplus = shape[4];
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
      "product(Tensor x, Tensor panels, int outputs, Tensor scales, Tensor columns, Tensor bias, Tensor norm, "
      "float eps, bool gated, Tensor? residual) -> Tensor");
  library.def(
      "layers(Tensor x, Tensor past, Tensor cos_sin, Tensor[] panels, Tensor[] scales, Tensor[] columns, "
      "Tensor[] biases, Tensor[] norms, int[] outputs, Tensor head_norms, float eps, Tensor(a!) keys, "
      "Tensor(b!) values, Tensor? begins, int window, Tensor? shared) -> Tensor");
  library.def(
      "convolve(Tensor x, Tensor per_input, Tensor panels, Tensor columns, Tensor per_output, int outputs, "
      "int taps, int dilation, int stride, float zero, int audio_begin) -> Tensor");
  library.def(
      "chain(Tensor x, Tensor[] per_input, Tensor[] panels, Tensor[] columns, Tensor[] per_output, int[] shapes, "
      "float[] zeros, int[] audio_begin) -> Tensor");
  library.def("has_units() -> bool", voicereel::has_units);
  library.def(
      "sample(Tensor logits, Tensor previous, Tensor temperature, Tensor top_p, Tensor penalty, "
      "Tensor noise, Tensor? top_k=None) -> Tensor");
}

TORCH_LIBRARY_IMPL(voicereel, CPU, library) {
  library.impl("product", voicereel::product);
  library.impl("layers", voicereel::layers);
  library.impl("convolve", voicereel::convolve_);
  library.impl("chain", voicereel::chain_);
  library.impl("sample", voicereel::sample);
}
