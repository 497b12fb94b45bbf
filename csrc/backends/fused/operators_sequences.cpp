#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "backends/fused/constants.h"
#include "backends/fused/moves.h"
#include "backends/fused/operators.h"
#include "core/error.h"

namespace datasentinel::fused {

using onnx::Node;
using onnx::Tensor;

// Convolutions over one axis: layers on windows that share their weights. Positions lie one after the other
// with their channels side by side, so that a window is a range of columns.

namespace {

/// The numbers of an attribute that has one for the one axis.
std::int64_t number_of(const Node& node, std::string_view name, std::int64_t otherwise) {
  constexpr std::int64_t kMost = std::int64_t{1} << 20;
  const onnx::Attribute* found = node.attribute(name);
  if (found == nullptr) return otherwise;
  if (found->integers.size() != 1) refuse(node, "it knows convolutions over one axis only");
  const std::int64_t number = found->integers[0];
  if (number < 0 || number > kMost) refuse(node, "its " + std::string(name) + " are out of range");
  return number;
}

struct Convolution {
  std::size_t channels = 0;  ///< Of what is read,
  std::size_t filters = 0;   ///< and of what is made.
  std::size_t taps = 0;
  std::size_t groups = 1;
  std::size_t stride = 1;
  std::size_t dilation = 1;
  std::size_t before = 0;  ///< Zeros,
  std::size_t behind = 0;
  std::vector<double> weights;  ///< [channel][filter][tap], zeros between groups

  [[nodiscard]] std::size_t span() const { return (taps - 1) * dilation + 1; }
};

/// Weights [filter][channel of its group][tap], or of a transposed one [channel][filter of its group][tap].
std::vector<double> weights_between(const Node& node, const Convolution& shape, const Tensor& tensor,
                                    bool transposed) {
  constexpr std::size_t kMost = std::size_t{1} << 22;
  const auto size = product_of({shape.channels, shape.filters, shape.taps}, kMost);
  if (!size && shape.groups > 1) refuse(node, "its groups are too many, or too wide");
  const std::vector<double> values = numbers(tensor);
  std::vector<double> weights(shape.channels * shape.filters * shape.taps, 0.0);
  const std::size_t channels = shape.channels / shape.groups;
  const std::size_t filters = shape.filters / shape.groups;
  for (std::size_t group = 0; group < shape.groups; ++group) {
    for (std::size_t c = 0; c < channels; ++c) {
      for (std::size_t f = 0; f < filters; ++f) {
        const std::size_t channel = group * channels + c;
        const std::size_t filter = group * filters + f;
        const std::size_t from = transposed ? channel * filters + f : filter * channels + c;
        for (std::size_t t = 0; t < shape.taps; ++t) {
          weights[(channel * shape.filters + filter) * shape.taps + t] = values[from * shape.taps + t];
        }
      }
    }
  }
  return weights;
}

Convolution read_convolution(const Node& node, const Shape& x, const Tensor* tensor, bool transposed) {
  if (tensor == nullptr) refuse(node, "its weights are not constant");
  if (tensor->dims.size() != 3 || x.batch != 0 || x.axes.size() != 2) {
    refuse(node, "it knows convolutions over one axis only");
  }
  const auto size = [tensor](std::size_t axis) { return static_cast<std::size_t>(tensor->dims[axis]); };
  const std::int64_t groups = node.integer_or("group", 1);
  Convolution result;
  result.channels = x.axes[0].size;
  result.taps = size(2);
  result.groups = static_cast<std::size_t>(std::max<std::int64_t>(groups, 0));
  result.filters = transposed ? size(1) * result.groups : size(0);
  const bool fits = groups > 0 && result.taps > 0 && result.filters > 0 && result.filters <= kMaxWidth &&
                    result.filters % result.groups == 0 && result.channels % result.groups == 0 &&
                    (transposed ? size(0) == result.channels : size(1) == result.channels / result.groups);
  if (!fits) {
    throw Error(ErrorCode::invalid_model, node.describe() + ": weights that do not fit " +
                                              std::to_string(result.channels) + " channels");
  }
  result.stride = static_cast<std::size_t>(number_of(node, "strides", 1));
  result.dilation = static_cast<std::size_t>(number_of(node, "dilations", 1));
  const auto kernel = number_of(node, "kernel_shape", static_cast<std::int64_t>(result.taps));
  if (result.stride == 0 || result.dilation == 0 || static_cast<std::size_t>(kernel) != result.taps) {
    throw Error(
        ErrorCode::invalid_model,
        node.describe() + " has strides or dilations of 0, or a kernel_shape that is not its weights'");
  }
  if (const onnx::Attribute* pads = node.attribute("pads")) {
    if (pads->integers.size() != 2 ||
        !std::ranges::all_of(pads->integers, [](std::int64_t pad) { return pad >= 0 && pad <= 1 << 20; })) {
      refuse(node, "its pads are out of range");
    }
    result.before = static_cast<std::size_t>(pads->integers[0]);
    result.behind = static_cast<std::size_t>(pads->integers[1]);
  }
  result.weights = weights_between(node, result, *tensor, transposed);
  return result;
}

/// Of every filter, for so many neighbouring positions.
std::vector<double> bias_of(const Node& node, const Tensor* tensor, std::size_t filters, std::size_t times) {
  const bool given = node.inputs.size() > 2 && !node.inputs[2].empty();
  if (!given) return {};
  if (tensor == nullptr) refuse(node, "its bias is not constant");
  const std::vector<double> values = numbers(*tensor);
  if (values.size() != filters) {
    throw Error(ErrorCode::invalid_model, node.describe() + " has a bias that does not fit its filters");
  }
  std::vector<double> bias;
  for (std::size_t i = 0; i < times; ++i) bias.insert(bias.end(), values.begin(), values.end());
  return bias;
}

/// [batch, channels, positions] whose columns lie position by position.
Shape by_position(std::size_t positions, std::size_t channels) {
  Shape shape = Shape::in_order({positions, channels});
  std::swap(shape.axes[0], shape.axes[1]);
  return shape;
}

}  // namespace

/// The positions of x that `picks` names, one after the other.
Symbol Operators::positions(const Node& node, Symbol& x, const std::vector<int>& picks) {
  Shape turned = x.shape;
  std::swap(turned.axes[0], turned.axes[1]);
  if (!product_of({picks.size(), turned.axes[1].size}, kMaxWidth)) {
    refuse(node, "it reads an impossible number of columns");
  }
  std::vector<int> columns = columns_of(turned, {picks, all_of(turned.axes[1].size)});
  if (!are_all_of(columns, x.width)) return builder_.gather(x, std::move(columns));
  builder_.share(x);
  return x;
}

Symbol Operators::convolution(const Node& node) {
  Symbol& x = input(node, 0);
  Convolution c = read_convolution(node, x.shape, constant_input(node, 1), false);
  const std::size_t length = x.shape.axes[1].size;
  const onnx::Attribute* attribute = node.attribute("auto_pad");
  const std::string padding = attribute == nullptr ? "NOTSET" : attribute->text;
  if (padding == "SAME_UPPER" || padding == "SAME_LOWER") {
    const std::size_t needed = ((length - 1) / c.stride) * c.stride + c.span();
    const std::size_t zeros = needed > length ? needed - length : 0;
    c.before = padding == "SAME_UPPER" ? zeros / 2 : zeros - zeros / 2;
    c.behind = zeros - c.before;
  } else if (padding == "VALID") {
    c.before = c.behind = 0;
  }
  const std::size_t padded = c.before + length + c.behind;
  if (padded < c.span()) {
    throw Error(ErrorCode::invalid_model, node.describe() + " has a kernel longer than what it reads");
  }
  const std::size_t windows = (padded - c.span()) / c.stride + 1;
  Dense layer;
  layer.inputs = c.taps * c.channels;
  layer.outputs = c.filters;
  layer.windows = windows;
  count_layer(node, layer.inputs, layer.outputs);
  layer.bias = bias_of(node, constant_input(node, 2), c.filters, 1);
  std::vector<double> weights(layer.inputs * layer.outputs);
  for (std::size_t t = 0; t < c.taps; ++t) {
    for (std::size_t k = 0; k < c.channels; ++k) {
      for (std::size_t f = 0; f < c.filters; ++f) {
        weights[(t * c.channels + k) * c.filters + f] = c.weights[(k * c.filters + f) * c.taps + t];
      }
    }
  }
  layer.weights = std::move(weights);
  const auto pick = [&](std::size_t at) {
    return at < c.before || at >= c.before + length ? kZero : static_cast<int>(at - c.before);
  };
  std::vector<int> picks;
  if (c.dilation == 1 || c.taps == 1) {
    layer.step = c.stride * c.channels;
    const std::size_t read = (windows - 1) * c.stride + c.span();
    for (std::size_t at = 0; at < read; ++at) picks.push_back(pick(at));
  } else {  // What a window reads is put side by side.
    layer.step = c.taps * c.channels;
    if (!product_of({windows, c.taps, c.channels}, kMaxWidth)) {
      refuse(node, "it reads an impossible number of columns");
    }
    for (std::size_t w = 0; w < windows; ++w) {
      for (std::size_t t = 0; t < c.taps; ++t) picks.push_back(pick(w * c.stride + t * c.dilation));
    }
  }
  if (!product_of({windows, c.filters}, kMaxWidth)) refuse(node, "it makes an impossible number of columns");
  Symbol read = positions(node, x, picks);
  Symbol result = builder_.dense(std::move(layer), read);
  result.shape = by_position(windows, c.filters);
  return result;
}

/// So many neighbouring positions as the stride are made of the same few: in one window.
Symbol Operators::transposed_convolution(const Node& node) {
  Symbol& x = input(node, 0);
  const Convolution c = read_convolution(node, x.shape, constant_input(node, 1), true);
  const onnx::Attribute* padding = node.attribute("auto_pad");
  if ((padding != nullptr && padding->text != "NOTSET") || node.attribute("output_shape") != nullptr) {
    refuse(node, "it knows explicit pads only");
  }
  const std::size_t length = x.shape.axes[1].size;
  const std::size_t whole =
      c.stride * (length - 1) + c.span() + static_cast<std::size_t>(number_of(node, "output_padding", 0));
  if (whole <= c.before + c.behind) {
    throw Error(ErrorCode::invalid_model, node.describe() + " has pads that leave nothing");
  }
  const std::size_t reach = (c.span() - 1) / c.stride + 1;  // How many positions a window reads.
  const std::size_t windows = (whole + c.stride - 1) / c.stride;
  if (!product_of({windows, c.stride, c.filters}, kMaxWidth)) {
    refuse(node, "it makes an impossible number of columns");
  }
  if (!product_of({reach, c.channels, c.stride, c.filters}, std::size_t{1} << 24)) {
    refuse(node, "its stride or its dilation is too long");
  }
  count_layer(node, reach * c.channels, c.stride * c.filters);
  Dense layer;
  layer.inputs = reach * c.channels;
  layer.outputs = c.stride * c.filters;
  layer.windows = windows;
  layer.step = c.channels;
  layer.bias = bias_of(node, constant_input(node, 2), c.filters, c.stride);
  // Position s q + p is made of the tap at p + s j of what lies j before q.
  std::vector<double> weights(layer.inputs * layer.outputs, 0.0);
  for (std::size_t p = 0; p < c.stride; ++p) {
    for (std::size_t j = 0; j < reach; ++j) {
      const std::size_t at = p + c.stride * j;
      if (at % c.dilation != 0 || at / c.dilation >= c.taps) continue;
      for (std::size_t k = 0; k < c.channels; ++k) {
        const std::size_t row = (reach - 1 - j) * c.channels + k;
        for (std::size_t f = 0; f < c.filters; ++f) {
          weights[row * layer.outputs + p * c.filters + f] =
              c.weights[(k * c.filters + f) * c.taps + at / c.dilation];
        }
      }
    }
  }
  layer.weights = std::move(weights);
  std::vector<int> picks;
  for (std::size_t at = 0; at < windows + reach - 1; ++at) {
    const bool is_outside = at < reach - 1 || at >= reach - 1 + length;
    picks.push_back(is_outside ? kZero : static_cast<int>(at - (reach - 1)));
  }
  Symbol read = positions(node, x, picks);
  Symbol result = builder_.dense(std::move(layer), read);
  const std::size_t kept = whole - c.before - c.behind;
  if (kept != windows * c.stride) {
    std::vector<int> columns = all_of(kept * c.filters);
    for (int& column : columns) column += static_cast<int>(c.before * c.filters);
    result = builder_.gather(result, std::move(columns));
  }
  result.shape = by_position(kept, c.filters);
  return result;
}

}  // namespace datasentinel::fused
