#pragma once

#include "backends/fused/program.h"
#include "onnx/graph.h"

namespace datasentinel::fused {

/// Lowers a graph with input `input` [batch, D] and outputs `score` [batch] or [batch, 1] and `output`
/// [batch, D], and perhaps `contributions` [batch, D]; with memory, also the input `state` and the output
/// `state_next`, [batch, S]. Without a `score` it is the mean squared difference of
/// input and output, and the contributions are its terms. Constants are folded in float64.
///
/// An element-wise affine map, (x - center) scale + offset, is carried along symbolically and ends up
/// - in the layer before it, when nothing else reads that layer's raw result,
/// - in the layer after it, unless it shifts the graph's input: W (x - m) and W x - W m are the same number,
///   but the second loses all digits of x that m shares with it, so this subtraction is always done,
/// - in the residual: x - (y scale + offset) is evaluated as (x - offset) - y scale for the same reason.
///
/// Throws Error{unsupported_model} naming the operator and the node, Error{invalid_model} for a graph that
/// contradicts itself.
[[nodiscard]] Program lower(const onnx::Graph& graph);

}  // namespace datasentinel::fused
