#include <algorithm>
#include <functional>
#include <map>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "backends/fused/operators.h"
#include "backends/fused/tree_ensemble.h"
#include "core/error.h"

namespace datasentinel::fused {

using onnx::Node;

// Decision trees, and what is computed of their leaves.

namespace {

/// post_transform, of which it knows two.
bool is_logistic(const Node& node) {
  const onnx::Attribute* found = node.attribute("post_transform");
  const std::string transform = found == nullptr ? "NONE" : found->text;
  if (transform != "NONE" && transform != "LOGISTIC") {
    refuse(node, "it knows the post_transforms NONE and LOGISTIC, not " + transform);
  }
  return transform == "LOGISTIC";
}

/// Whether a classifier has values of class 0 alone, of which the other's are made.
bool has_one_score(const Node& node) {
  const onnx::Attribute* classes = node.attribute("class_ids");
  return classes == nullptr ||
         std::ranges::all_of(classes->integers, [](std::int64_t id) { return id == 0; });
}

bool has_negative_weight(const Node& node) {
  const onnx::Attribute* weights = node.attribute("class_weights");
  return weights != nullptr && std::ranges::any_of(weights->reals, [](float weight) { return weight < 0; });
}

}  // namespace

/// Small files must not ask for much memory: each of many nodes may make something of one large forest.
void Operators::hold(const TreeSum& sum) {
  constexpr std::size_t kAlways = std::size_t{1} << 20;
  constexpr std::size_t kMostPerRead = 16;
  leaf_values_held_ += count_leaf_values(sum.forest);
  if (leaf_values_held_ > kAlways + kMostPerRead * leaf_values_read_) {
    refuse_graph("what it computes of trees would take far more memory than the trees");
  }
}

Symbol Operators::trees(const TreeSum& sum) {
  hold(sum);
  return builder_.trees(sum);
}

void Operators::define(const std::string& name, TreeSum sum) {
  hold(sum);
  if (constant(name) != nullptr || !tree_sums_.emplace(name, std::move(sum)).second) {
    throw Error(ErrorCode::invalid_model, "\"" + name + "\" is computed twice");
  }
}

bool Operators::fold_tree_sums(const Node& node) {
  std::vector<TreeOperand> operands;
  std::map<std::string, std::size_t> done;  // Of those that nothing else reads, how many values they hold.
  bool has_sum = false;
  for (const std::string& name : node.inputs) {
    const auto found = tree_sums_.find(name);
    TreeOperand operand{.sum = found == tree_sums_.end() ? nullptr : &found->second,
                        .constant = constant(name)};
    if (operand.sum == nullptr && operand.constant == nullptr) return false;
    if (operand.sum != nullptr) {
      has_sum = true;
      const auto reads = static_cast<std::size_t>(std::ranges::count(node.inputs, name));
      const bool is_done = folded_reads_[name] + reads == uses_.at(name);
      if (is_done) done.emplace(name, count_leaf_values(operand.sum->forest));
      operand.is_last_read = is_done && reads == 1;
    }
    operands.push_back(operand);
  }
  if (!has_sum) return false;
  auto result = fold_trees(node, operands);
  if (!result) return false;
  for (const std::string& name : node.inputs) ++folded_reads_[name];
  for (const auto& [name, values] : done) {
    leaf_values_held_ -= values;
    tree_sums_.erase(name);
  }
  define(node.outputs[0], std::move(*result));
  return true;
}

/// By target or class, what the trees of `node` add up to. What base values of a classifier mean is what ONNX
/// Runtime does, which adds those of two classes to other columns than their own.
std::vector<TreeSum> Operators::tree_outputs(const Node& node) {
  Symbol& x = input(node, 0);
  if (!x.shape.is_matrix()) refuse(node, "its input is not a matrix");
  const int value = builder_.materialize(x);
  builder_.share(x);
  TreeEnsemble ensemble = read_tree_ensemble(node, x.width);
  std::vector<TreeSum> sums;
  leaf_values_read_ += std::transform_reduce(ensemble.outputs.begin(), ensemble.outputs.end(), std::size_t{0},
                                             std::plus<>(), count_leaf_values);
  sums.reserve(ensemble.outputs.size());
  for (Forest& forest : ensemble.outputs) {
    sums.push_back({.input = value, .forest = std::move(forest)});
  }
  const std::size_t bases = ensemble.base_values.size();
  const bool classifies = node.op_type == "TreeEnsembleClassifier";
  if (classifies && sums.size() == 2) {
    const bool one_score = has_one_score(node);
    if (bases > 1) refuse(node, "it has " + std::to_string(bases) + " base values for two classes");
    if (bases == 1 && !one_score) refuse(node, "it has one base value for scores of two classes");
    const std::size_t asked = one_score ? 0 : 1;
    if ((bases == 1 || !one_score) && !ensemble.always_weighed[asked]) {
      refuse(node, "some rows may come to no weight of class " + std::to_string(asked));
    }
  } else if (bases != 0 && bases != sums.size()) {
    refuse(node, "it does not have one base value per output");
  }
  for (std::size_t i = 0; i < bases; ++i) sums[i].constant = ensemble.base_values[i];
  return sums;
}

void Operators::tree_regressor(const Node& node) {
  const bool logistic = is_logistic(node);
  std::vector<TreeSum> sums = tree_outputs(node);
  if (sums.size() == 1 && !logistic) return define(node.outputs[0], std::move(sums[0]));
  define(node.outputs[0], as_columns(sums, logistic));
}

Symbol Operators::as_columns(const std::vector<TreeSum>& sums, bool logistic) {
  std::vector<Symbol> columns;
  std::vector<Symbol*> parts;
  columns.reserve(sums.size());
  parts.reserve(sums.size());
  for (const TreeSum& sum : sums) parts.push_back(&columns.emplace_back(trees(sum)));
  Symbol result = builder_.concat(parts);
  return logistic ? builder_.apply({.function = Function::sigmoid}, result, true) : result;
}

/// The scores, those of two classes made of one where the file has no other. What that means beyond the
/// specification is what ONNX Runtime does: 1 - s and s if s is a share of votes, else -s and s.
void Operators::tree_classifier(const Node& node) {
  if (is_used(node.outputs[0])) refuse(node, "its labels are read");
  const bool logistic = is_logistic(node);
  std::vector<TreeSum> sums = tree_outputs(node);
  if (sums.size() == 1 && logistic) refuse(node, "it applies LOGISTIC to the score of one class");
  if (sums.size() != 2 || !has_one_score(node)) {
    return define(node.outputs[1], as_columns(sums, logistic));
  }
  Symbol score = trees(sums[0]);
  builder_.share(score);
  Symbol other = builder_.multiply(score, {-1.0});
  const bool is_share = !logistic && !has_negative_weight(node);
  if (is_share) other = builder_.add(std::move(other), std::vector<double>{1.0});
  Symbol result = builder_.concat({&other, &score});
  if (logistic) result = builder_.apply({.function = Function::sigmoid}, result, true);
  define(node.outputs[1], std::move(result));
}

}  // namespace datasentinel::fused
