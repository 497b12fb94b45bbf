#pragma once

#include <cstddef>
#include <span>

#include "onnx/graph.h"

namespace datasentinel::onnx {

/// Decodes one TensorProto. Throws Error{invalid_model}.
[[nodiscard]] Tensor read_tensor(std::span<const std::byte> message);

/// Throws Error{invalid_model} naming the tensor when an element is NaN or infinite.
void require_finite(const Tensor& tensor);

}  // namespace datasentinel::onnx
