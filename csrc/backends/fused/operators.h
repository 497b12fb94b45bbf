#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "backends/fused/builder.h"
#include "backends/fused/quantization.h"
#include "backends/fused/tree_sums.h"
#include "onnx/graph.h"

namespace datasentinel::fused {

/// How many readers each tensor has.
using Uses = std::map<std::string, std::size_t, std::less<>>;

/// The greatest exponent that is multiplied out.
inline constexpr int kMostPower = 16;

[[nodiscard]] inline bool is_whole_power(double exponent) noexcept {
  return exponent >= 1 && exponent <= kMostPower && exponent == static_cast<int>(exponent);
}

/// Lowers the nodes of a graph one by one; what each ONNX operator means is written here.
class Operators {
 public:
  Operators(const onnx::Graph& graph, const Uses& uses, ProgramBuilder& builder)
      : graph_(graph), uses_(uses), builder_(builder) {}

  void define(const std::string& name, Symbol symbol);
  /// The tensor `name`, which must have been defined.
  [[nodiscard]] Symbol& symbol(const std::string& name);
  /// Lowers a node whose inputs are known. Throws Error{unsupported_model}, Error{invalid_model}.
  void lower(const onnx::Node& node);

 private:
  using Node = onnx::Node;
  using Handler = Symbol (Operators::*)(const Node&);
  static const std::map<std::string_view, Handler>& handlers();

  // Inputs of a node.
  [[nodiscard]] const onnx::Tensor* constant(const std::string& name) const;
  [[nodiscard]] const onnx::Tensor* constant_input(const Node& node, std::size_t index) const;
  [[nodiscard]] Symbol& input(const Node& node, std::size_t index);
  [[nodiscard]] Symbol taken(const Node& node, std::size_t index);
  [[nodiscard]] bool only_reader(const Node& node, std::size_t index) const;
  [[nodiscard]] bool is_used(const std::string& name) const;
  [[nodiscard]] std::vector<double> columns(const Node& node, const onnx::Tensor& tensor,
                                            const Symbol& symbol) const;
  [[nodiscard]] bool fold_constants(const Node& node);
  [[nodiscard]] bool fold_quantized(const Node& node);
  [[nodiscard]] bool fold_tree_sums(const Node& node);
  void define(const std::string& name, TreeSum sum);
  [[nodiscard]] Symbol trees(const TreeSum& sum);
  void hold(const TreeSum& sum);

  // Operators.
  Symbol gemm(const Node& node);
  Symbol mat_mul(const Node& node);
  Symbol add(const Node& node);
  Symbol sum(const Node& node);
  Symbol subtract(const Node& node);
  Symbol multiply(const Node& node);
  Symbol divide(const Node& node);
  Symbol negate(const Node& node);
  Symbol power(const Node& node);
  Symbol batch_normalization(const Node& node);
  Symbol activation(const Node& node);
  Symbol clip(const Node& node);
  Symbol extremum(const Node& node);
  Symbol mish(const Node& node);
  Symbol same(const Node& node);
  Symbol reshape(const Node& node);
  Symbol squeeze(const Node& node);
  Symbol concat(const Node& node);
  Symbol gather(const Node& node);
  Symbol slice(const Node& node);
  Symbol reduce(const Node& node);
  Symbol top_k(const Node& node);
  Symbol quantize(const Node& node);
  Symbol dequantize(const Node& node);
  Symbol scaler(const Node& node);
  Symbol support_vectors(const Node& node);
  void tree_classifier(const Node& node);
  void tree_regressor(const Node& node);
  [[nodiscard]] std::vector<TreeSum> tree_outputs(const Node& node);
  [[nodiscard]] Symbol as_columns(const std::vector<TreeSum>& sums, bool logistic);
  void split(const Node& node);

  Symbol affine_layer(const Node& node, Symbol& x, const onnx::Tensor& weights, bool transposed,
                      double alpha);
  [[nodiscard]] Symbol whole_power(Symbol& x, int exponent);
  Symbol broadcast_binary(const Node& node, Op op, Symbol& left, Symbol& right);
  void expand_to(const onnx::Tensor& tensor, Symbol& x);
  [[nodiscard]] std::vector<std::int64_t> axes(const Node& node, std::size_t index) const;

  const onnx::Graph& graph_;
  const Uses& uses_;
  ProgramBuilder& builder_;
  std::map<std::string, Symbol, std::less<>> symbols_;
  std::map<std::string, onnx::Tensor, std::less<>> folded_;
  std::map<std::string, Quantized, std::less<>> quantized_;  ///< Constants that were dequantised.
  std::map<std::string, TreeSum, std::less<>> tree_sums_;    ///< Tensors that nothing else has read yet.
  Uses folded_reads_;                                        ///< What was folded of those.
  std::size_t leaf_values_read_ = 0;
  std::size_t leaf_values_held_ = 0;  ///< By those and by the program.
};

/// Throws Error{unsupported_model}: the fused backend cannot run `node`, because it `problem`.
[[noreturn]] void refuse(const onnx::Node& node, const std::string& problem);

}  // namespace datasentinel::fused
