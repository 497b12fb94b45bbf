#pragma once

#include <cstddef>
#include <memory>
#include <vector>

namespace datasentinel::fused {

/// A decision tree. Its nodes lie level by level, the children of one node side by side. A row goes on to
/// the second child where `feature`, with the opposite sign where the node negates, is at most the threshold,
/// and to the first one otherwise, as NaN does.
struct Tree {
  struct Node {
    int feature = 0;
    bool negates = false;
    float threshold = 0;
    int child = 0;  ///< The first one, a node that comes later; of a leaf, the leaf's number.
    bool is_leaf = false;
  };
  std::vector<Node> nodes;
  std::size_t leaves = 0;
  int depth = 0;  ///< Steps from the root to the farthest leaf.
};

/// What a tree adds to a row's sum: a number for each of its leaves.
struct LeafValues {
  std::shared_ptr<const Tree> tree;
  std::vector<double> values;
};

using Forest = std::vector<LeafValues>;

/// How many values its leaves have together.
[[nodiscard]] inline std::size_t count_leaf_values(const Forest& forest) noexcept {
  std::size_t count = 0;
  for (const LeafValues& term : forest) count += term.values.size();
  return count;
}

}  // namespace datasentinel::fused
