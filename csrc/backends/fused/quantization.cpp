#include "backends/fused/quantization.h"

#include <limits>

#include "backends/fused/constants.h"
#include "backends/fused/operators.h"
#include "core/error.h"

namespace datasentinel::fused {

using onnx::ElementType;
using onnx::Node;
using onnx::Tensor;

std::vector<double> Quantized::along(std::size_t wanted, std::size_t count) const {
  if (scales.size() == 1) return std::vector<double>(count, scales.front());
  if (axis != wanted || scales.size() != count) return {};
  return scales;
}

Quantized quantization_of(const Node& node, const std::vector<const Tensor*>& tensors, std::size_t rank) {
  const bool quantizes = node.op_type == "QuantizeLinear";
  if (node.integer_or("block_size", 0) != 0) refuse(node, "block_size is not supported");
  const Tensor* scale = tensors[1];
  const bool has_zero_point = node.inputs.size() > 2 && !node.inputs[2].empty();
  const Tensor* zero_point = has_zero_point ? tensors[2] : nullptr;
  if (scale == nullptr || (has_zero_point && zero_point == nullptr)) {
    refuse(node, "its scale or its zero point is not constant");
  }
  Quantized quantized{
      .scales = numbers(*scale),
      .zero_points = has_zero_point ? numbers(*zero_point) : std::vector<double>(scale->size(), 0.0),
      .axis = 0};
  constexpr double kLeast = std::numeric_limits<float>::min();
  for (const double value : quantized.scales) {
    if (!(value >= kLeast)) {
      throw Error(ErrorCode::invalid_model,
                  node.describe() + " has a scale that is not a normal positive number");
    }
  }
  if (quantized.scales.empty() || quantized.zero_points.size() != quantized.scales.size()) {
    throw Error(ErrorCode::invalid_model, node.describe() + " has " +
                                              std::to_string(quantized.scales.size()) + " scales and " +
                                              std::to_string(quantized.zero_points.size()) + " zero points");
  }
  const std::int64_t axis = node.integer_or("axis", 1);
  const auto axes = static_cast<std::int64_t>(rank);
  if (quantized.scales.size() > 1) {
    if (axis < -axes || axis >= axes)
      throw Error(ErrorCode::invalid_model, node.describe() + " has no such axis");
    quantized.axis = static_cast<std::size_t>(axis < 0 ? axis + axes : axis);
  }
  const ElementType type = has_zero_point ? zero_point->type
                           : quantizes
                               ? ElementType{static_cast<std::int32_t>(node.integer_or("output_dtype", 2))}
                           : tensors[0] != nullptr ? tensors[0]->type
                                                   : ElementType::int8;
  if (type == ElementType::uint8 || type == ElementType::undefined) {
    quantized.lowest = 0;
  } else if (type != ElementType::int8 && (quantizes || type != ElementType::int32)) {
    refuse(node, "it knows int8 and uint8, not " + to_string(type));
  }
  return quantized;
}

Tensor dequantized(const Node& node, const Tensor& tensor, const Quantized& quantized) {
  Tensor result{.name = node.outputs[0],
                .type = ElementType::float32,
                .dims = tensor.dims,
                .reals = numbers(tensor),
                .integers = {}};
  std::size_t inner = 1;  // elements from one of the axis to the next
  if (quantized.scales.size() > 1) {
    for (std::size_t i = quantized.axis + 1; i < tensor.dims.size(); ++i) {
      inner *= static_cast<std::size_t>(tensor.dims[i]);
    }
    if (static_cast<std::size_t>(tensor.dims[quantized.axis]) != quantized.scales.size()) {
      throw Error(ErrorCode::invalid_model, node.describe() + " has scales that do not fit the axis");
    }
  }
  for (std::size_t i = 0; i < result.reals.size(); ++i) {
    const std::size_t element = i / inner % quantized.scales.size();
    result.reals[i] = (result.reals[i] - quantized.zero_points[element]) * quantized.scales[element];
  }
  return result;
}

// The operators. Quantised values are kept as float32, which has them exactly.

bool Operators::fold_quantized(const Node& node) {
  if (!node.domain.empty() || node.op_type != "DequantizeLinear") return false;
  const Tensor* values = constant_input(node, 0);
  if (values == nullptr) return false;
  const Quantized quantized =
      quantization_of(node, {values, constant_input(node, 1), constant_input(node, 2)}, values->dims.size());
  count_made(node, values->size());
  Tensor tensor = dequantized(node, *values, quantized);
  quantized_.insert_or_assign(tensor.name, quantized);
  folded_.insert_or_assign(tensor.name, std::move(tensor));
  return true;
}

Symbol Operators::quantize(const Node& node) {
  Symbol& x = input(node, 0);
  const Quantized quantized =
      quantization_of(node, {nullptr, constant_input(node, 1), constant_input(node, 2)}, x.shape.rank());
  if (quantized.scales.size() != 1) refuse(node, "its scale is not one number");
  const double zero_point = quantized.zero_points.front();
  const auto signed_zero_point = static_cast<float>(zero_point - quantized.lowest - 128);
  Symbol whole = builder_.apply({.function = Function::quantize,
                                 .a = static_cast<float>(quantized.scales.front()),
                                 .b = signed_zero_point},
                                x, only_reader(node, 0));
  if (zero_point == 0) return whole;
  const std::size_t width = whole.width;
  return builder_.add(std::move(whole), std::vector<double>(width, zero_point));
}

Symbol Operators::dequantize(const Node& node) {
  Symbol x = taken(node, 0);
  const Quantized quantized =
      quantization_of(node, {nullptr, constant_input(node, 1), constant_input(node, 2)}, x.shape.rank());
  if (quantized.scales.size() != 1) refuse(node, "its scale is not one number");
  const double zero_point = quantized.zero_points.front();
  const std::size_t width = x.width;
  if (zero_point != 0) x = builder_.add(std::move(x), std::vector<double>(width, -zero_point));
  return builder_.multiply(std::move(x), std::vector<double>(width, quantized.scales.front()));
}

}  // namespace datasentinel::fused
