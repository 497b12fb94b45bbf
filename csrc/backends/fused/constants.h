#pragma once

#include <optional>

#include "onnx/graph.h"

namespace datasentinel::fused {

/// The numbers of a constant as float64, whole numbers included. Throws Error{unsupported_model} for other
/// types.
[[nodiscard]] std::vector<double> numbers(const onnx::Tensor& tensor);

/// Computes a node whose inputs are all constant (Transpose, Cast, arithmetic, reshaping), or returns
/// nothing when its operator is not one of those.
[[nodiscard]] std::optional<onnx::Tensor> fold(const onnx::Node& node,
                                               const std::vector<const onnx::Tensor*>& inputs);

}  // namespace datasentinel::fused
