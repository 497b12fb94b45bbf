#include "backends/fused/tree_ensemble.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "backends/fused/kernel_api.h"
#include "backends/fused/operators.h"
#include "core/error.h"

// Attributes are those of https://onnx.ai/onnx/operators/onnx_aionnxml_TreeEnsembleRegressor.html.

namespace datasentinel::fused {
namespace {

using onnx::Node;

/// A node in the file: number of its tree, number in the tree.
using NodeId = std::pair<std::int64_t, std::int64_t>;

constexpr std::size_t kMaxOutputs = std::size_t{1} << 16;
/// By number in the file that describes the trees.
constexpr std::size_t kMaxLeafValues = 16;

[[noreturn]] void fail(const Node& node, const std::string& problem) {
  throw Error(ErrorCode::invalid_model, node.describe() + " " + problem);
}

std::string describe(const NodeId& id) {
  return "node " + std::to_string(id.second) + " of tree " + std::to_string(id.first);
}

template <typename Values>
const Values& list(const Node& node, std::string_view name, Values onnx::Attribute::* values) {
  static const Values kNone;
  const onnx::Attribute* found = node.attribute(name);
  return found == nullptr ? kNone : found->*values;
}

const std::vector<std::int64_t>& integers(const Node& node, std::string_view name) {
  return list(node, name, &onnx::Attribute::integers);
}

const std::vector<float>& reals(const Node& node, std::string_view name) {
  return list(node, name, &onnx::Attribute::reals);
}

void require_length(const Node& node, std::string_view name, std::size_t found, std::size_t expected) {
  if (found == expected) return;
  fail(node, "has " + std::to_string(found) + " numbers in \"" + std::string(name) + "\", not " +
                 std::to_string(expected));
}

/// The greatest number below.
float below(float value) { return std::nextafter(value, -std::numeric_limits<float>::infinity()); }

/// The attributes that describe the trees, each with one element a node.
class Nodes {
 public:
  Nodes(const Node& node, std::size_t width) : node_(node), width_(static_cast<std::int64_t>(width)) {
    const std::size_t count = trees_.size();
    if (count == 0) fail(node, "has no trees");
    require_length(node, "nodes_nodeids", ids_.size(), count);
    require_length(node, "nodes_featureids", features_.size(), count);
    require_length(node, "nodes_modes", modes_.size(), count);
    require_length(node, "nodes_values", values_.size(), count);
    require_length(node, "nodes_truenodeids", if_true_.size(), count);
    require_length(node, "nodes_falsenodeids", if_false_.size(), count);
    if (!missing_.empty()) require_length(node, "nodes_missing_value_tracks_true", missing_.size(), count);
    for (std::size_t i = 0; i < count; ++i) {
      if (!places_.emplace(NodeId{trees_[i], ids_[i]}, i).second) {
        fail(node, "has " + describe({trees_[i], ids_[i]}) + " twice");
      }
    }
  }

  [[nodiscard]] std::size_t size() const { return trees_.size(); }

  [[nodiscard]] std::size_t find(const NodeId& id) const {
    const auto found = places_.find(id);
    if (found == places_.end()) fail(node_, "lacks " + describe(id));
    return found->second;
  }

  /// The roots, in the order of the file: nodes that are nobody's children.
  [[nodiscard]] std::vector<std::size_t> roots() const {
    std::vector<char> is_child(trees_.size(), 0);
    std::map<std::int64_t, int> roots_of_tree;
    for (std::size_t i = 0; i < trees_.size(); ++i) {
      roots_of_tree[trees_[i]];
      if (is_leaf(i)) continue;
      for (const std::int64_t id : {if_true_[i], if_false_[i]}) {
        char& seen = is_child[find({trees_[i], id})];
        if (seen != 0) fail(node_, "has two ways to " + describe({trees_[i], id}));
        seen = 1;
      }
    }
    std::vector<std::size_t> roots;
    for (std::size_t i = 0; i < trees_.size(); ++i) {
      if (is_child[i] != 0) continue;
      roots.push_back(i);
      ++roots_of_tree[trees_[i]];
    }
    for (const auto& [tree, count] : roots_of_tree) {
      if (count != 1) fail(node_, "has " + std::to_string(count) + " roots of tree " + std::to_string(tree));
    }
    return roots;
  }

  /// The tree from its root on; `leaves` are its leaves' places in the file.
  [[nodiscard]] Tree tree_from(std::size_t root, std::vector<std::size_t>& leaves) const {
    Tree tree;
    std::vector<std::size_t> order{root};
    std::size_t end_of_level = 1;
    for (std::size_t i = 0; i < order.size(); ++i) {
      if (i == end_of_level) {
        end_of_level = order.size();
        ++tree.depth;
      }
      tree.nodes.push_back(is_leaf(order[i]) ? leaf(order[i], leaves) : branch(order[i], i, order));
    }
    tree.leaves = leaves.size();
    return tree;
  }

 private:
  [[nodiscard]] bool is_leaf(std::size_t i) const { return modes_[i] == "LEAF"; }

  static Tree::Node leaf(std::size_t place, std::vector<std::size_t>& leaves) {
    leaves.push_back(place);
    return {.child = static_cast<int>(leaves.size()) - 1, .is_leaf = true};
  }

  /// The node at `place`, `index` of its tree, whose children come at the end of `order`. Any mode is
  /// x <= limit or its contrary, and so written that NaN goes where it should: x > limit is
  /// -x <= (the number below -limit), which NaN is not either.
  Tree::Node branch(std::size_t place, std::size_t index, std::vector<std::size_t>& order) const {
    const NodeId id{trees_[place], ids_[place]};
    const std::string& mode = modes_[place];
    const bool is_strict = mode == "BRANCH_LT" || mode == "BRANCH_GTE";
    const bool is_below = mode == "BRANCH_LEQ" || mode == "BRANCH_LT";
    if (!is_strict && mode != "BRANCH_LEQ" && mode != "BRANCH_GT") {
      refuse(node_, describe(id) + " has the mode \"" + mode + "\"");
    }
    if (std::isnan(values_[place])) fail(node_, "has no threshold in " + describe(id));
    if (std::isinf(values_[place])) refuse(node_, describe(id) + " has an infinite threshold");
    if (features_[place] < 0 || features_[place] >= width_) {
      fail(node_, "asks for column " + std::to_string(features_[place]) + " of " + std::to_string(width_) +
                      " in " + describe(id));
    }
    const std::size_t child = order.size();
    if (child - index >= std::size_t{1} << kTreeChildBits) refuse(node_, "its trees have too many nodes");
    if (features_[place] >= std::int64_t{1} << kTreeFeatureBits) refuse(node_, "it reads too many columns");

    const float limit = is_strict ? below(values_[place]) : values_[place];
    const std::size_t if_true = find({id.first, if_true_[place]});
    const std::size_t if_false = find({id.first, if_false_[place]});
    const std::size_t if_missing = !missing_.empty() && missing_[place] != 0 ? if_true : if_false;
    const bool negates = if_missing == (is_below ? if_true : if_false);
    order.push_back(if_missing);
    order.push_back(if_missing == if_true ? if_false : if_true);
    return {.feature = static_cast<int>(features_[place]),
            .negates = negates,
            .threshold = negates ? below(-limit) : limit,
            .child = static_cast<int>(child)};
  }

  const Node& node_;
  std::int64_t width_;
  const std::vector<std::int64_t>& trees_ = integers(node_, "nodes_treeids");
  const std::vector<std::int64_t>& ids_ = integers(node_, "nodes_nodeids");
  const std::vector<std::int64_t>& features_ = integers(node_, "nodes_featureids");
  const std::vector<std::int64_t>& if_true_ = integers(node_, "nodes_truenodeids");
  const std::vector<std::int64_t>& if_false_ = integers(node_, "nodes_falsenodeids");
  const std::vector<std::int64_t>& missing_ = integers(node_, "nodes_missing_value_tracks_true");
  const std::vector<float>& values_ = reals(node_, "nodes_values");
  const std::vector<std::string>& modes_ = list(node_, "nodes_modes", &onnx::Attribute::texts);
  std::map<NodeId, std::size_t> places_;
};

/// By place in the file: which output gets what.
using Weights = std::map<std::size_t, std::vector<std::pair<std::size_t, double>>>;

Weights read_weights(const Node& node, const Nodes& nodes, const std::string& prefix, std::size_t outputs) {
  const auto& trees = integers(node, prefix + "_treeids");
  const auto& ids = integers(node, prefix + "_nodeids");
  const auto& targets = integers(node, prefix + "_ids");
  const auto& values = reals(node, prefix + "_weights");
  require_length(node, prefix + "_nodeids", ids.size(), trees.size());
  require_length(node, prefix + "_ids", targets.size(), trees.size());
  require_length(node, prefix + "_weights", values.size(), trees.size());
  Weights weights;
  for (std::size_t i = 0; i < trees.size(); ++i) {
    const NodeId id{trees[i], ids[i]};
    if (!std::isfinite(values[i])) fail(node, "has a weight that is not finite in " + describe(id));
    if (targets[i] < 0 || static_cast<std::size_t>(targets[i]) >= outputs) {
      fail(node, "adds to output " + std::to_string(targets[i]) + " of " + std::to_string(outputs) + " in " +
                     describe(id));
    }
    weights[nodes.find(id)].emplace_back(static_cast<std::size_t>(targets[i]), values[i]);
  }
  return weights;
}

/// Whether each of these leaves has a weight of `output`.
bool all_weigh(const std::vector<std::size_t>& leaves, const Weights& weights, std::size_t output) {
  return std::ranges::all_of(leaves, [&](std::size_t leaf) {
    const auto found = weights.find(leaf);
    return found != weights.end() &&
           std::ranges::any_of(found->second, [&](const auto& weight) { return weight.first == output; });
  });
}

/// A forest of one leaf, which adds nothing.
Forest nothing() {
  static const auto kLeaf =
      std::make_shared<const Tree>(Tree{.nodes = {Tree::Node{.is_leaf = true}}, .leaves = 1});
  return {{.tree = kLeaf, .values = {0.0}}};
}

std::size_t count_outputs(const Node& node, bool classifies) {
  const std::size_t classes = integers(node, "classlabels_int64s").size() +
                              list(node, "classlabels_strings", &onnx::Attribute::texts).size();
  const std::int64_t count =
      classifies ? static_cast<std::int64_t>(classes) : node.integer_or("n_targets", 1);
  if (count < 1) fail(node, "has no outputs");
  return static_cast<std::size_t>(count);
}

}  // namespace

TreeEnsemble read_tree_ensemble(const Node& node, std::size_t width) {
  for (const onnx::Attribute& attribute : node.attributes) {
    if (attribute.name.ends_with("_as_tensor")) refuse(node, "it has \"" + attribute.name + "\"");
  }
  const onnx::Attribute* aggregate = node.attribute("aggregate_function");
  const std::string function = aggregate == nullptr ? "SUM" : aggregate->text;
  if (function != "SUM" && function != "AVERAGE") refuse(node, "it aggregates by " + function);

  const bool classifies = node.op_type == "TreeEnsembleClassifier";
  const std::size_t outputs = count_outputs(node, classifies);
  const Nodes nodes(node, width);
  const Weights weights = read_weights(node, nodes, classifies ? "class" : "target", outputs);
  const std::vector<std::size_t> roots = nodes.roots();

  TreeEnsemble ensemble;
  const auto& base_values = reals(node, "base_values");
  ensemble.base_values.assign(base_values.begin(), base_values.end());
  const double share = function == "AVERAGE" ? 1.0 / static_cast<double>(roots.size()) : 1.0;
  const std::size_t described =
      nodes.size() + reals(node, classifies ? "class_weights" : "target_weights").size();
  std::size_t leaf_values = 0;
  std::size_t reached = 0;
  if (outputs > kMaxOutputs) refuse(node, "it has too many outputs");
  ensemble.outputs.resize(outputs);
  for (const std::size_t root : roots) {
    std::vector<std::size_t> leaves;
    const auto tree = std::make_shared<const Tree>(nodes.tree_from(root, leaves));
    reached += tree->nodes.size();
    for (std::size_t output = 0; output < std::min<std::size_t>(outputs, 2); ++output) {
      ensemble.always_weighed[output] = ensemble.always_weighed[output] || all_weigh(leaves, weights, output);
    }
    for (std::size_t leaf = 0; leaf < leaves.size(); ++leaf) {
      const auto found = weights.find(leaves[leaf]);
      if (found == weights.end()) continue;
      for (const auto& [output, value] : found->second) {
        Forest& forest = ensemble.outputs[output];
        if (forest.empty() || forest.back().tree != tree) {
          leaf_values += leaves.size();
          if (leaf_values > kMaxLeafValues * described) {
            refuse(node, "its " + std::to_string(outputs) +
                             " outputs would take far more memory than the trees that they share");
          }
          forest.push_back({.tree = tree, .values = std::vector<double>(leaves.size(), 0.0)});
        }
        forest.back().values[leaf] += share * value;
      }
    }
  }
  if (reached != nodes.size()) fail(node, "has nodes that cannot be reached from a root");
  for (Forest& forest : ensemble.outputs) {
    if (forest.empty()) forest = nothing();
  }
  return ensemble;
}

}  // namespace datasentinel::fused
