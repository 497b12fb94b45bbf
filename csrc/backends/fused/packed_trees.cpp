#include "backends/fused/packed_trees.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

#include "core/error.h"

namespace datasentinel::fused {
namespace {

/// The word of node `index` of a tree.
std::uint32_t word_of(const Tree::Node& node, std::size_t index) {
  if (node.is_leaf) return 0;
  return (node.negates ? std::uint32_t{1} << 31 : 0) |
         (static_cast<std::uint32_t>(node.feature) << kTreeChildBits) |
         (static_cast<std::uint32_t>(node.child) - static_cast<std::uint32_t>(index));
}

}  // namespace

PackedTrees::PackedTrees(Forest forest, const Geometry& geometry) {
  // Trees that are walked side by side take as long as the deepest.
  std::ranges::stable_sort(forest, {}, [](const LeafValues& term) { return term.tree->depth; });
  std::size_t nodes = 1;  // The root of the trees that fill up.
  for (const LeafValues& term : forest) nodes += term.tree->nodes.size();
  constexpr std::size_t kMaxNodes = std::size_t{1} << 30;
  if (nodes > kMaxNodes) {
    throw Error(ErrorCode::unsupported_model, "the fused backend cannot run this graph: too many trees");
  }
  nodes_ = AlignedFloats(3 * nodes);
  float* words = nodes_.data();
  float* thresholds = words + nodes;
  float* leaves = thresholds + nodes;
  std::size_t next = 0;
  const auto add = [&](std::uint32_t word, float threshold, float leaf) {
    words[next] = std::bit_cast<float>(word);
    thresholds[next] = threshold;
    leaves[next++] = leaf;
  };
  const auto lanes = static_cast<std::size_t>(geometry.lanes);
  const std::size_t padding = (lanes - forest.size() % lanes) % lanes;
  add(0, std::nanf(""), 0);
  roots_.assign(padding, 0);
  depths_.assign(padding, 0);
  for (const LeafValues& term : forest) {
    roots_.push_back(static_cast<int>(next));
    depths_.push_back(term.tree->depth);
    levels_ += static_cast<std::size_t>(term.tree->depth);
    for (std::size_t i = 0; i < term.tree->nodes.size(); ++i) {
      const Tree::Node& node = term.tree->nodes[i];
      const double value = node.is_leaf ? term.values[static_cast<std::size_t>(node.child)] : 0.0;
      add(word_of(node, i), node.is_leaf ? std::nanf("") : node.threshold, to_float32(value));
    }
  }
  view_ = {.words = words,
           .thresholds = thresholds,
           .leaves = leaves,
           .roots = roots_.data(),
           .depths = depths_.data(),
           .count = static_cast<int>(roots_.size())};
}

}  // namespace datasentinel::fused
