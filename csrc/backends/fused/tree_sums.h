#pragma once

#include <optional>
#include <vector>

#include "backends/fused/trees.h"
#include "onnx/graph.h"

namespace datasentinel::fused {

/// A tensor of one column that is a sum over trees, each of which adds the value of the leaf that a row comes
/// to. What is then computed of it can be computed of the values: for good, and not once a row.
struct TreeSum {
  int input = -1;       ///< The value of the program that the trees look at.
  Forest forest;        ///< With each tree once.
  double constant = 0;  ///< As values, of float64: what is computed of many trees is rounded at the end.
  onnx::ElementType type = onnx::ElementType::float32;
  int rank = 2;  ///< As that of Symbol.
};

/// Whether the type is of floating point, as TreeSum has them: not of integers or booleans.
[[nodiscard]] bool is_real(onnx::ElementType type) noexcept;

/// An input of a node: a sum, or a constant (a tensor of one number unless it is a shape).
struct TreeOperand {
  TreeSum* sum = nullptr;
  const onnx::Tensor* constant = nullptr;
  bool is_last_read = false;  ///< Of the sum, which the result may be made of.
};

/// What `node` makes of its inputs, at least one of which is a sum: a sum again for linear operators, and for
/// any function of numbers where all of them depend on one tree, computed in the graph's element types.
/// Nothing, and no sum is touched, where there is no such form. Throws Error{unsupported_model} for integers
/// that leave their range.
[[nodiscard]] std::optional<TreeSum> fold_trees(const onnx::Node& node,
                                                const std::vector<TreeOperand>& operands);

}  // namespace datasentinel::fused
