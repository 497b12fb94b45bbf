#pragma once

#include <optional>
#include <vector>

#include "backends/fused/moves.h"
#include "onnx/graph.h"

namespace datasentinel::fused {

/// The numbers of a constant as float64, whole numbers included. Throws Error{unsupported_model} for other
/// types.
[[nodiscard]] std::vector<double> numbers(const onnx::Tensor& tensor);

/// Computes a node whose inputs are all constant (Cast, arithmetic), or returns
/// nothing when its operator is not one of those.
[[nodiscard]] std::optional<onnx::Tensor> fold(const onnx::Node& node,
                                               const std::vector<const onnx::Tensor*>& inputs);

/// A constant with the axes `before` whose elements are moved, or nothing if it has none that are numbers.
[[nodiscard]] std::optional<onnx::Tensor> picked(const onnx::Tensor& tensor, const Shape& before,
                                                 const Moved& moved);
/// Constants joined along an axis, or nothing if they do not fit.
[[nodiscard]] std::optional<onnx::Tensor> joined(const std::vector<const onnx::Tensor*>& parts,
                                                 std::int64_t axis);

}  // namespace datasentinel::fused
