#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <vector>

#include "backends/fused/shape.h"
#include "onnx/graph.h"

namespace datasentinel::fused {

/// How many rows there are, in a tensor of sizes.
inline constexpr std::int64_t kBatchSize = std::numeric_limits<std::int64_t>::min();

/// A node's input that is known when the graph is loaded, perhaps but for kBatchSize in it; or null.
using Known = std::function<const onnx::Tensor*(std::size_t index)>;

/// What an operator that only moves elements makes of a tensor: the elements that are picked, or all of them
/// where they are, as a tensor of another shape.
struct Moved {
  Shape shape;
  std::optional<Picks> picks;
};

/// Nothing for other operators. Throws Error{unsupported_model} for what moves or mixes rows,
/// Error{invalid_model} for what does not fit the shape.
[[nodiscard]] std::optional<Moved> moved(const onnx::Node& node, const Shape& x, const Known& known);

/// The parts that a Split makes. Throws as `moved` does.
[[nodiscard]] std::vector<Moved> split_into_parts(const onnx::Node& node, const Shape& x, const Known& known);

/// The axes that a node names, in the input at `index` or in an attribute.
[[nodiscard]] std::vector<std::int64_t> axes_of(const onnx::Node& node, const Known& known,
                                                std::size_t index);

}  // namespace datasentinel::fused
