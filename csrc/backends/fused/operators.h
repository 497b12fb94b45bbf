#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "backends/fused/builder.h"
#include "backends/fused/moves.h"
#include "backends/fused/quantization.h"
#include "backends/fused/tree_sums.h"
#include "onnx/graph.h"

namespace datasentinel::fused {

/// How many readers each tensor has.
using Uses = std::map<std::string, std::size_t, std::less<>>;

/// Most columns of a tensor.
inline constexpr std::size_t kMaxWidth = std::size_t{1} << 20;

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
  [[nodiscard]] Known known_inputs(const Node& node) const;
  [[nodiscard]] const onnx::Tensor* known(const std::string& name) const;
  [[nodiscard]] std::size_t rows_axis(const std::string& name) const;
  [[nodiscard]] std::size_t common_rows_axis(const Node& node,
                                             const std::vector<const onnx::Tensor*>& inputs) const;
  [[nodiscard]] bool reads_for_every_row(const Node& node) const;
  [[nodiscard]] Shape shape_of(const onnx::Tensor& tensor) const;
  [[nodiscard]] onnx::Tensor sizes_of(const Node& node);
  [[nodiscard]] bool fold_constants(const Node& node);
  [[nodiscard]] bool fold_sizes(const Node& node);
  [[nodiscard]] bool fold_filled(const Node& node, const onnx::Tensor& wanted);
  [[nodiscard]] bool fold_joined(const Node& node);
  [[nodiscard]] bool fold_moved(const Node& node, const onnx::Tensor& tensor);
  void hold(const std::string& name, onnx::Tensor tensor, std::size_t rows_axis);
  void count_made(const Node& node, std::size_t numbers);
  void count_layer(const Node& node, std::size_t inputs, std::size_t outputs);
  [[nodiscard]] bool fold_quantized(const Node& node);
  [[nodiscard]] bool fold_tree_sums(const Node& node);
  void define(const std::string& name, TreeSum sum);
  void define_output(const Node& node, std::size_t index, Symbol symbol);
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
  Symbol move(const Node& node);
  [[nodiscard]] Symbol placed(const Node& node, Symbol& x, const Moved& moved);
  void put_in_order(Symbol& x);
  void align(Symbol& left, Symbol& right);
  Symbol concat(const Node& node);
  Symbol reduce(const Node& node);
  [[nodiscard]] Symbol reduce_last(const Node& node, Symbol inner, std::size_t count);
  [[nodiscard]] Symbol reduce_all(const Node& node, Symbol& x);
  Symbol top_k(const Node& node);
  Symbol convolution(const Node& node);
  Symbol transposed_convolution(const Node& node);
  [[nodiscard]] Symbol positions(const Node& node, Symbol& x, const std::vector<int>& picks);
  void recurrent(const Node& node);
  [[nodiscard]] Symbol first_state(const Node& node, std::size_t input_index, std::size_t index,
                                   std::size_t hidden, std::size_t directions);
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
  [[nodiscard]] SharedNumbers layer_weights(const Node& node, const onnx::Tensor& matrix, bool transposed,
                                            double alpha);
  [[nodiscard]] Symbol whole_power(Symbol& x, int exponent);
  Symbol broadcast_binary(const Node& node, Op op, Symbol& left, Symbol& right);
  void expand_to(const onnx::Tensor& tensor, Symbol& x);
  [[nodiscard]] Symbol expanded(const Node& node, Symbol& x, const std::vector<std::size_t>& sizes);

  const onnx::Graph& graph_;
  const Uses& uses_;
  ProgramBuilder& builder_;
  std::map<std::string, Symbol, std::less<>> symbols_;
  std::map<std::string, onnx::Tensor, std::less<>> folded_;
  std::map<std::string, onnx::Tensor, std::less<>> sizes_;     ///< Whole numbers, kBatchSize among them.
  std::map<std::string, std::size_t, std::less<>> rows_axes_;  ///< Of constants for every row.
  std::map<std::string, Quantized, std::less<>> quantized_;    ///< Constants that were dequantised.
  /// By constant, whether it is transposed, and what it is multiplied by.
  std::map<std::tuple<std::string, bool, double>, SharedNumbers> layers_;
  std::map<std::string, TreeSum, std::less<>> tree_sums_;  ///< Tensors that nothing else has read yet.
  Uses folded_reads_;                                      ///< What was folded of those.
  std::size_t numbers_made_ = 0;                           ///< Of constants, beside those in the file.
  std::size_t recurrent_steps_ = 0;
  std::size_t leaf_values_read_ = 0;
  std::size_t leaf_values_held_ = 0;  ///< By those and by the program.
};

/// Throws Error{unsupported_model}: the fused backend cannot run `node`, because it `problem`.
[[noreturn]] void refuse(const onnx::Node& node, const std::string& problem);

}  // namespace datasentinel::fused
