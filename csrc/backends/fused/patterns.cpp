#include "backends/fused/patterns.h"

#include <cmath>
#include <map>
#include <optional>
#include <string>

namespace datasentinel::fused {
namespace {

using onnx::Graph;
using onnx::Node;

/// Follows a graph backwards, from a value to the node that computes it.
class Matcher {
 public:
  explicit Matcher(const Graph& graph) : graph_(graph) {
    for (const Node& node : graph.nodes) {
      for (const std::string& output : node.outputs) producers_[output] = &node;
    }
  }

  /// The node of type `op` that computes `value`.
  [[nodiscard]] const Node* producer(const std::string& value, std::string_view op) const {
    const auto found = producers_.find(value);
    if (found == producers_.end() || found->second->op_type != op || !found->second->domain.empty()) {
      return nullptr;
    }
    return found->second;
  }

  [[nodiscard]] bool is_constant(const std::string& value, double wanted) const {
    const onnx::Tensor* tensor = graph_.constant(value);
    return tensor != nullptr && tensor->reals.size() == 1 &&
           std::abs(tensor->reals[0] - wanted) < 1e-6 * wanted;
  }

  /// v where `value` = v * factor or factor * v (or v / (1/factor)).
  [[nodiscard]] std::optional<std::string> scaled(const std::string& value, double factor) const {
    if (const Node* mul = producer(value, "Mul"); mul != nullptr && mul->inputs.size() == 2) {
      if (is_constant(mul->inputs[1], factor)) return mul->inputs[0];
      if (is_constant(mul->inputs[0], factor)) return mul->inputs[1];
    }
    if (const Node* div = producer(value, "Div"); div != nullptr && div->inputs.size() == 2) {
      if (is_constant(div->inputs[1], 1 / factor)) return div->inputs[0];
    }
    return std::nullopt;
  }

  /// x where `value` = 1 + Erf(x / sqrt 2).
  [[nodiscard]] std::optional<std::string> one_plus_erf(const std::string& value) const {
    const Node* add = producer(value, "Add");
    if (add == nullptr || add->inputs.size() != 2) return std::nullopt;
    for (std::size_t side = 0; side < 2; ++side) {
      const Node* erf = producer(add->inputs[side], "Erf");
      if (erf != nullptr && erf->inputs.size() == 1 && is_constant(add->inputs[1 - side], 1.0)) {
        return scaled(erf->inputs[0], std::sqrt(0.5));
      }
    }
    return std::nullopt;
  }

  /// x where `node` computes x Phi(x).
  [[nodiscard]] std::optional<std::string> gelu(const Node& node) const {
    if (node.op_type != "Mul" || node.inputs.size() != 2) return std::nullopt;
    for (std::size_t side = 0; side < 2; ++side) {
      const std::string& first = node.inputs[side];
      const std::string& second = node.inputs[1 - side];
      // (x / 2) (1 + erf)
      if (const auto x = one_plus_erf(second); x && scaled(first, 0.5) == x) return x;
      // x ((1 + erf) / 2)
      if (const auto inner = scaled(second, 0.5)) {
        if (const auto x = one_plus_erf(*inner); x && first == *x) return x;
      }
      // (x (1 + erf)) / 2
      if (!is_constant(second, 0.5)) continue;
      const Node* product = producer(first, "Mul");
      if (product == nullptr || product->inputs.size() != 2) continue;
      for (std::size_t inner = 0; inner < 2; ++inner) {
        if (const auto x = one_plus_erf(product->inputs[inner]); x && product->inputs[1 - inner] == *x)
          return x;
      }
    }
    return std::nullopt;
  }

  [[nodiscard]] std::optional<std::string> swish(const Node& node) const {
    if (node.op_type != "Mul" || node.inputs.size() != 2) return std::nullopt;
    for (std::size_t side = 0; side < 2; ++side) {
      const Node* sigmoid = producer(node.inputs[side], "Sigmoid");
      if (sigmoid != nullptr && !sigmoid->inputs.empty() && sigmoid->inputs[0] == node.inputs[1 - side]) {
        return node.inputs[1 - side];
      }
    }
    return std::nullopt;
  }

 private:
  const Graph& graph_;
  std::map<std::string, const Node*, std::less<>> producers_;
};

}  // namespace

onnx::Graph with_activations_named(onnx::Graph graph) {
  const Matcher matcher(graph);
  std::map<std::size_t, Node> replacements;
  for (std::size_t i = 0; i < graph.nodes.size(); ++i) {
    Node node = graph.nodes[i];
    if (!node.domain.empty()) continue;
    if (const auto x = matcher.gelu(node)) {
      node.op_type = "Gelu";
      node.inputs = {*x};
    } else if (const auto y = matcher.swish(node)) {
      node.op_type = "Swish";
      node.inputs = {*y};
    } else {
      continue;
    }
    node.attributes.clear();
    replacements.emplace(i, std::move(node));
  }
  for (auto& [index, node] : replacements) graph.nodes[index] = std::move(node);
  return graph;
}

}  // namespace datasentinel::fused
