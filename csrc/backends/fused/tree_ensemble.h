#pragma once

#include <array>
#include <memory>
#include <vector>

#include "backends/fused/trees.h"
#include "onnx/graph.h"

namespace datasentinel::fused {

/// A TreeEnsembleRegressor or TreeEnsembleClassifier, before its transformation of the results.
struct TreeEnsemble {
  std::vector<Forest> outputs;      ///< By target or class: the sum of these, one for each tree with weights,
  std::vector<double> base_values;  ///< and this; empty: 0.
  /// By output, of the first two: whether every row comes to a leaf with a weight of it.
  std::array<bool, 2> always_weighed{};
};

/// Reads `node`, whose input has `width` columns. Throws Error{unsupported_model} naming what is not
/// supported, Error{invalid_model} for attributes that contradict each other or are not trees.
[[nodiscard]] TreeEnsemble read_tree_ensemble(const onnx::Node& node, std::size_t width);

}  // namespace datasentinel::fused
