#pragma once

#include <cstddef>
#include <vector>

#include "onnx/graph.h"

namespace datasentinel::fused {

/// How numbers stand for others: x = (q - zero_point) scale, with one scale, or one for each element of an
/// axis.
struct Quantized {
  std::vector<double> scales;
  std::vector<double> zero_points;
  std::size_t axis = 0;
  double lowest = -128;  ///< Of q; the highest is 255 more.

  /// The scales of the `count` elements of `axis`; none where they lie along another one.
  [[nodiscard]] std::vector<double> along(std::size_t axis, std::size_t count) const;
};

/// The parameters of a QuantizeLinear or DequantizeLinear `node` on a tensor of `rank` axes; `tensors` are
/// its inputs, of which those that are not constant, or not there, are null. Throws Error{unsupported_model}
/// for parameters that are not constant, blocks, and types other than int8 and uint8 (int32 where it only
/// dequantises); Error{invalid_model} for scales that are not greater than 0, or do not fit the zero points.
[[nodiscard]] Quantized quantization_of(const onnx::Node& node,
                                        const std::vector<const onnx::Tensor*>& tensors, std::size_t rank);

/// What the whole numbers `tensor` stand for.
[[nodiscard]] onnx::Tensor dequantized(const onnx::Node& node, const onnx::Tensor& tensor,
                                       const Quantized& quantized);

}  // namespace datasentinel::fused
