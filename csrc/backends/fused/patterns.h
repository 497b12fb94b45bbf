#pragma once

#include "onnx/graph.h"

namespace datasentinel::fused {

/// Replaces the last node of each spelled-out activation by the activation itself: x Sigmoid(x) by Swish,
/// x (1 + Erf(x / sqrt 2)) / 2 in its usual orders by Gelu. The other nodes stay, unread.
[[nodiscard]] onnx::Graph with_activations_named(onnx::Graph graph);

}  // namespace datasentinel::fused
