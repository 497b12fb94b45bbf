#pragma once

#include <cstddef>
#include <span>

namespace datasentinel::onnx {

/// Throws Error{invalid_model} when a tensor anywhere in a ModelProto (subgraphs, attributes and functions
/// included) keeps its data in another file, which a runtime would open; and for subgraphs nested too deeply.
void require_self_contained(std::span<const std::byte> model);

}  // namespace datasentinel::onnx
