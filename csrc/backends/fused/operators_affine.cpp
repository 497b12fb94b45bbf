#include <algorithm>
#include <bit>
#include <cmath>
#include <string_view>
#include <tuple>
#include <utility>

#include "backends/fused/constants.h"
#include "backends/fused/floats.h"
#include "backends/fused/operators.h"
#include "core/error.h"

namespace datasentinel::fused {

using onnx::Node;
using onnx::Tensor;

// Layers and arithmetic.

namespace {

std::vector<double> negated(std::vector<double> values) {
  for (double& value : values) value = -value;
  return values;
}

}  // namespace

/// A matrix [inputs, outputs], or its transpose, times alpha. Layers share what they read several times.
SharedNumbers Operators::layer_weights(const Node& node, const Tensor& matrix, bool transposed,
                                       double alpha) {
  const auto key = std::tuple(matrix.name, transposed, alpha);
  const bool is_common = uses_.at(matrix.name) > 1 && !std::isnan(alpha);
  if (const auto found = layers_.find(key); is_common && found != layers_.end()) return found->second;
  const auto rows = static_cast<std::size_t>(matrix.dims[0]);
  const auto columns = static_cast<std::size_t>(matrix.dims[1]);
  count_layer(node, transposed ? columns : rows, transposed ? rows : columns);
  const std::vector<double> values = numbers(matrix);
  std::vector<double> factors(values.size());
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t column = 0; column < columns; ++column) {
      factors[transposed ? column * rows + row : row * columns + column] =
          alpha * values[row * columns + column];
    }
  }
  SharedNumbers weights(std::move(factors));
  if (is_common) layers_.emplace(key, weights);
  return weights;
}

Symbol Operators::affine_layer(const Node& node, Symbol& x, const Tensor& weights, bool transposed,
                               double alpha) {
  if (weights.dims.size() != 2) refuse(node, "its weights are not a matrix");
  const auto rows = static_cast<std::size_t>(weights.dims[0]);
  const auto columns = static_cast<std::size_t>(weights.dims[1]);
  Dense layer;
  layer.inputs = transposed ? columns : rows;
  layer.outputs = transposed ? rows : columns;
  if (x.shape.axes.empty() || x.shape.batch >= x.shape.axes.size()) refuse(node, "it multiplies rows");
  if (layer.inputs != x.shape.axes.back().size) {
    throw Error(ErrorCode::invalid_model, node.describe() + ": weights for " + std::to_string(layer.inputs) +
                                              " columns meet " + std::to_string(x.shape.axes.back().size));
  }
  if (layer.outputs == 0) refuse(node, "it has no columns");
  layer.weights = layer_weights(node, weights, transposed, alpha);
  if (const auto found = quantized_.find(weights.name); found != quantized_.end()) {
    layer.quanta = found->second.along(transposed ? 0 : 1, layer.outputs);
    for (double& quantum : layer.quanta) quantum *= alpha;
  }
  // Along the last axis, for all others: wherever these lie.
  if (x.shape.axes.back().size > 1 && x.shape.axes.back().stride != 1) put_in_order(x);
  layer.windows = x.width / layer.inputs;
  layer.step = layer.inputs;
  Shape shape = x.shape;
  for (Shape::Axis& axis : shape.axes) axis.stride = axis.stride / layer.inputs * layer.outputs;
  shape.axes.back() = {.size = layer.outputs, .stride = 1};
  Symbol result = builder_.dense(std::move(layer), x);
  result.shape = std::move(shape);
  return result;
}

Symbol Operators::gemm(const Node& node) {
  if (node.integer_or("transA", 0) != 0) refuse(node, "transA is not supported");
  const Tensor* weights = constant_input(node, 1);
  if (weights == nullptr) refuse(node, "its weights are not constant");
  if (!input(node, 0).shape.is_matrix()) refuse(node, "its input is not a matrix");
  Symbol result = affine_layer(node, input(node, 0), *weights, node.integer_or("transB", 0) != 0,
                               node.real_or("alpha", 1));
  if (node.inputs.size() < 3 || node.inputs[2].empty()) return result;
  const Tensor* bias = constant_input(node, 2);
  if (bias == nullptr) refuse(node, "its bias is not constant");
  std::vector<double> values = columns(node, *bias, result);
  for (double& value : values) value *= node.real_or("beta", 1);
  return builder_.add(std::move(result), values);
}

Symbol Operators::mat_mul(const Node& node) {
  const Tensor* weights = constant_input(node, 1);
  if (weights == nullptr) refuse(node, "its second input is not constant");
  return affine_layer(node, input(node, 0), *weights, false, 1);
}

Symbol Operators::batch_normalization(const Node& node) {
  if (node.integer_or("training_mode", 0) != 0) refuse(node, "training mode is not supported");
  Symbol x = taken(node, 0);
  std::vector<double> parameters[4];
  for (std::size_t i = 0; i < 4; ++i) {
    const Tensor* tensor = constant_input(node, i + 1);
    if (tensor == nullptr) refuse(node, "its parameters are not constant");
    Tensor by_channel = *tensor;  // The second axis, whatever follows.
    for (std::size_t axis = 2; axis < x.shape.rank(); ++axis) by_channel.dims.push_back(1);
    parameters[i] = columns(node, by_channel, x);
  }
  auto& [gamma, beta, mean, variance] = parameters;
  const double epsilon = node.real_or("epsilon", 1e-5F);
  for (std::size_t i = 0; i < x.width; ++i) gamma[i] /= std::sqrt(variance[i] + epsilon);
  return builder_.add(builder_.multiply(builder_.add(std::move(x), negated(mean)), gamma), beta);
}

/// [batch, 1] with a constant of n numbers becomes [batch, n].
void Operators::expand_to(const Tensor& tensor, Symbol& x) {
  if (x.shape.is_matrix() && x.width == 1 && tensor.size() > 1) x = builder_.expand(x, tensor.size());
}

/// Axes of one element repeated to these sizes.
Symbol Operators::expanded(const Node& node, Symbol& x, const std::vector<std::size_t>& sizes) {
  if (!product_of(sizes, kMaxWidth)) refuse(node, "its result has an impossible number of columns");
  Picks picks = all_of(x.shape);
  for (std::size_t i = 0; i < sizes.size(); ++i) picks[i].resize(sizes[i], 0);
  return placed(node, x, {.shape = Shape::in_order(sizes, x.shape.batch), .picks = std::move(picks)});
}

Symbol Operators::broadcast_binary(const Node& node, Op op, Symbol& left, Symbol& right) {
  const std::size_t axes = std::max(left.shape.axes.size(), right.shape.axes.size());
  std::vector<std::size_t> sizes(axes, 1);
  bool fits = left.shape.rank() == right.shape.rank() && left.shape.batch == right.shape.batch;
  for (std::size_t i = 0; fits && i < axes; ++i) {
    const std::size_t of_left = left.shape.axes[i].size;
    const std::size_t of_right = right.shape.axes[i].size;
    sizes[i] = std::max(of_left, of_right);
    fits = of_left == of_right || of_left == 1 || of_right == 1;
  }
  if (!fits) refuse(node, "its inputs have shapes that do not fit row by row");
  const bool is_narrow = left.width == 1 || right.width == 1;
  if (is_narrow || left.shape == right.shape) return builder_.binary(op, left, right);
  Symbol first = expanded(node, left, sizes);
  Symbol second = expanded(node, right, sizes);
  return builder_.binary(op, first, second);
}

/// Makes what has the same axes lie alike.
void Operators::align(Symbol& left, Symbol& right) {
  const bool same_axes = left.shape.batch == right.shape.batch && left.shape.sizes() == right.shape.sizes();
  if (!same_axes || left.shape == right.shape) return;
  put_in_order(left);
  put_in_order(right);
}

/// (x - offset) scale
Symbol Operators::scaler(const Node& node) {
  Symbol x = taken(node, 0);
  const auto parameter = [&](std::string_view name, double otherwise) {
    const onnx::Attribute* found = node.attribute(name);
    if (found == nullptr || found->reals.empty()) return std::vector<double>(x.width, otherwise);
    std::vector<double> values(found->reals.begin(), found->reals.end());
    if (values.size() == 1) values.resize(x.width, values[0]);
    if (values.size() != x.width) {
      throw Error(ErrorCode::invalid_model, node.describe() + " has " + std::to_string(values.size()) +
                                                " numbers in \"" + std::string(name) + "\" for " +
                                                std::to_string(x.width) + " columns");
    }
    return values;
  };
  if (node.attribute("offset") != nullptr) x = builder_.add(std::move(x), negated(parameter("offset", 0)));
  if (node.attribute("scale") != nullptr) x = builder_.multiply(std::move(x), parameter("scale", 1));
  return x;
}

Symbol Operators::sum(const Node& node) {
  Symbol total = taken(node, 0);
  for (std::size_t i = 1; i < node.inputs.size(); ++i) {
    Symbol& next = input(node, i);
    align(total, next);
    total =
        total.shape == next.shape ? builder_.add(total, next) : broadcast_binary(node, Op::add, total, next);
  }
  return total;
}

Symbol Operators::add(const Node& node) {
  for (const std::size_t side : {1, 0}) {
    const Tensor* tensor = constant_input(node, side);
    if (tensor == nullptr) continue;
    Symbol x = taken(node, 1 - side);
    expand_to(*tensor, x);
    const auto values = columns(node, *tensor, x);
    return builder_.add(std::move(x), values);
  }
  Symbol& left = input(node, 0);
  Symbol& right = input(node, 1);
  align(left, right);
  if (left.shape != right.shape) return broadcast_binary(node, Op::add, left, right);
  return builder_.add(left, right);
}

Symbol Operators::subtract(const Node& node) {
  if (const Tensor* tensor = constant_input(node, 1)) {
    Symbol x = taken(node, 0);
    expand_to(*tensor, x);
    const auto values = negated(columns(node, *tensor, x));
    return builder_.add(std::move(x), values);
  }
  if (const Tensor* tensor = constant_input(node, 0)) {
    Symbol x = taken(node, 1);
    expand_to(*tensor, x);
    const auto values = columns(node, *tensor, x);
    // c - x as -(x - c)
    return builder_.multiply(builder_.add(std::move(x), negated(values)),
                             std::vector<double>(values.size(), -1));
  }
  Symbol& left = input(node, 0);
  Symbol& right = input(node, 1);
  align(left, right);
  if (left.shape != right.shape) return broadcast_binary(node, Op::subtract, left, right);
  return builder_.difference(left, right);
}

Symbol Operators::multiply(const Node& node) {
  for (const std::size_t side : {1, 0}) {
    const Tensor* tensor = constant_input(node, side);
    if (tensor == nullptr) continue;
    Symbol x = taken(node, 1 - side);
    expand_to(*tensor, x);
    const auto values = columns(node, *tensor, x);
    return builder_.multiply(std::move(x), values);
  }
  Symbol& left = input(node, 0);
  if (node.inputs[0] == node.inputs[1]) return builder_.square(left);
  return broadcast_binary(node, Op::multiply, left, input(node, 1));
}

Symbol Operators::divide(const Node& node) {
  if (const Tensor* tensor = constant_input(node, 1)) {
    Symbol x = taken(node, 0);
    expand_to(*tensor, x);
    auto values = columns(node, *tensor, x);
    for (double& value : values) {
      if (value == 0) refuse(node, "it divides by zero");
      value = 1 / value;
    }
    return builder_.multiply(std::move(x), values);
  }
  if (const Tensor* tensor = constant_input(node, 0)) {
    Symbol& x = input(node, 1);
    expand_to(*tensor, x);
    const auto values = columns(node, *tensor, x);
    return builder_.multiply(builder_.apply({.function = Function::reciprocal}, x, only_reader(node, 1)),
                             values);
  }
  return broadcast_binary(node, Op::divide, input(node, 0), input(node, 1));
}

Symbol Operators::negate(const Node& node) {
  Symbol x = taken(node, 0);
  const std::vector<double> minus_one(x.width, -1);
  return builder_.multiply(std::move(x), minus_one);
}

Symbol Operators::power(const Node& node) {
  const Tensor* exponent = constant_input(node, 1);
  if (const Tensor* base = constant_input(node, 0); base != nullptr && exponent == nullptr) {
    if (base->size() != 1 || numbers(*base)[0] <= 0) refuse(node, "its base is not one positive number");
    return builder_.apply(power_of(numbers(*base)[0]), input(node, 1), only_reader(node, 1));
  }
  if (exponent == nullptr || exponent->size() != 1) refuse(node, "its exponent is not one constant number");
  const double power = numbers(*exponent)[0];
  Symbol& x = input(node, 0);
  if (power == 1) return same(node);
  if (power == 0.5) return builder_.apply({.function = Function::sqrt}, x, only_reader(node, 0));
  if (power == -1) return builder_.apply({.function = Function::reciprocal}, x, only_reader(node, 0));
  if (is_whole_power(power)) return whole_power(x, static_cast<int>(power));
  refuse(node, "its exponent is " + std::to_string(power) + "; it knows -1, 0.5, and whole ones from 1 to " +
                   std::to_string(kMostPower));
}

/// By squaring.
Symbol Operators::whole_power(Symbol& x, int exponent) {
  Symbol power = x;
  for (int bit = static_cast<int>(std::bit_width(static_cast<unsigned>(exponent))) - 2; bit >= 0; --bit) {
    power = builder_.square(power);
    if ((exponent >> bit & 1) != 0) power = builder_.binary(Op::multiply, x, power);
  }
  return power;
}

}  // namespace datasentinel::fused
