#include "backends/fused/operators.h"

#include <algorithm>
#include <utility>

#include "backends/fused/constants.h"
#include "core/error.h"

namespace datasentinel::fused {

using onnx::Node;
using onnx::Tensor;

void refuse(const Node& node, const std::string& problem) {
  throw Error(ErrorCode::unsupported_model,
              "the fused backend cannot run " + node.describe() + ": " + problem);
}

void Operators::define(const std::string& name, Symbol symbol) {
  if (constant(name) != nullptr || !symbols_.emplace(name, std::move(symbol)).second) {
    throw Error(ErrorCode::invalid_model, "\"" + name + "\" is computed twice");
  }
}

Symbol& Operators::symbol(const std::string& name) {
  const auto found = symbols_.find(name);
  if (found != symbols_.end()) return found->second;
  if (const auto sum = tree_sums_.find(name); sum != tree_sums_.end()) {
    if (!is_real(sum->second.type)) {
      throw Error(
          ErrorCode::unsupported_model,
          "\"" + name +
              "\" holds integers, which the fused backend supports only on values computed from trees");
    }
    return symbols_.emplace(name, trees(sum->second)).first->second;
  }
  if (constant(name) != nullptr) {
    throw Error(ErrorCode::unsupported_model,
                "\"" + name + "\" is a constant where a computed value is needed");
  }
  throw Error(ErrorCode::invalid_model, "\"" + name + "\" is read before anything computes it");
}

const Tensor* Operators::constant(const std::string& name) const {
  if (const Tensor* tensor = graph_.constant(name)) return tensor;
  const auto found = folded_.find(name);
  return found == folded_.end() ? nullptr : &found->second;
}

const Tensor* Operators::constant_input(const Node& node, std::size_t index) const {
  return index < node.inputs.size() ? constant(node.inputs[index]) : nullptr;
}

Symbol& Operators::input(const Node& node, std::size_t index) {
  if (constant(node.inputs[index]) != nullptr)
    refuse(node, "its input " + std::to_string(index) + " is constant");
  return symbol(node.inputs[index]);
}

/// A copy to build a formula on. What stands behind it must not change any more if others read it too.
Symbol Operators::taken(const Node& node, std::size_t index) {
  const Symbol& x = input(node, index);
  if (!only_reader(node, index)) builder_.share(x);
  return x;
}

bool Operators::only_reader(const Node& node, std::size_t index) const {
  const auto found = uses_.find(node.inputs[index]);
  return found != uses_.end() && found->second == 1;
}

bool Operators::is_used(const std::string& name) const { return uses_.contains(name); }

/// `tensor` as one number per column of `symbol`, which it must be broadcast to without changing its shape.
std::vector<double> Operators::columns(const Node& node, const Tensor& tensor, const Symbol& symbol) const {
  std::vector<double> values = numbers(tensor);
  const std::size_t axes = tensor.dims.size();
  const bool leading_ones = std::all_of(tensor.dims.begin(), tensor.dims.end() - (axes > 0 ? 1 : 0),
                                        [](std::int64_t dim) { return dim == 1; });
  const bool fits = axes <= static_cast<std::size_t>(symbol.rank) && leading_ones;
  if (fits && values.size() == 1) return std::vector<double>(symbol.width, values[0]);
  if (!fits || symbol.rank != 2 || values.size() != symbol.width) {
    refuse(node, "constant \"" + tensor.name + "\" is neither one number nor one per column (" +
                     std::to_string(symbol.width) + ")");
  }
  return values;
}

bool Operators::fold_constants(const Node& node) {
  std::vector<const Tensor*> inputs;
  for (const std::string& name : node.inputs) {
    inputs.push_back(constant(name));
    if (inputs.back() == nullptr) return false;
  }
  auto tensor = fold(node, inputs);
  if (!tensor) return false;
  tensor->name = node.outputs[0];
  folded_.insert_or_assign(tensor->name, std::move(*tensor));
  return true;
}

void Operators::lower(const Node& node) {
  if (node.outputs.empty()) refuse(node, "it has no output");
  if (fold_constants(node) || fold_quantized(node) || fold_tree_sums(node)) return;
  const std::string type = node.type();
  if (type == "Split") return split(node);
  if (type == "ai.onnx.ml:TreeEnsembleRegressor") return tree_regressor(node);
  if (type == "ai.onnx.ml:TreeEnsembleClassifier") return tree_classifier(node);
  const auto handler = handlers().find(type);
  if (handler == handlers().end()) refuse(node, "it does not know this operator");
  Symbol result = (this->*handler->second)(node);
  constexpr std::size_t kMaxWidth = std::size_t{1} << 20;
  if (result.width == 0 || result.width > kMaxWidth)
    refuse(node, "its result has an impossible number of columns");
  define(node.outputs[0], std::move(result));
}

const std::map<std::string_view, Operators::Handler>& Operators::handlers() {
  static const std::map<std::string_view, Handler> kHandlers = {
      {"Abs", &Operators::activation},
      {"Add", &Operators::add},
      {"BatchNormalization", &Operators::batch_normalization},
      {"Cast", &Operators::same},
      {"Clip", &Operators::clip},
      {"Concat", &Operators::concat},
      {"DequantizeLinear", &Operators::dequantize},
      {"Div", &Operators::divide},
      {"Dropout", &Operators::same},
      {"Elu", &Operators::activation},
      {"Erf", &Operators::activation},
      {"Exp", &Operators::activation},
      {"Flatten", &Operators::same},
      {"Gather", &Operators::gather},
      {"Gelu", &Operators::activation},
      {"Gemm", &Operators::gemm},
      {"HardSigmoid", &Operators::activation},
      {"HardSwish", &Operators::activation},
      {"Identity", &Operators::same},
      {"LeakyRelu", &Operators::activation},
      {"Log", &Operators::activation},
      {"MatMul", &Operators::mat_mul},
      {"Max", &Operators::extremum},
      {"Min", &Operators::extremum},
      {"Mish", &Operators::mish},
      {"Mul", &Operators::multiply},
      {"Neg", &Operators::negate},
      {"Pow", &Operators::power},
      {"QuantizeLinear", &Operators::quantize},
      {"Reciprocal", &Operators::activation},
      {"ReduceL1", &Operators::reduce},
      {"ReduceL2", &Operators::reduce},
      {"ReduceMax", &Operators::reduce},
      {"ReduceMean", &Operators::reduce},
      {"ReduceMin", &Operators::reduce},
      {"ReduceSum", &Operators::reduce},
      {"ReduceSumSquare", &Operators::reduce},
      {"Relu", &Operators::activation},
      {"Reshape", &Operators::reshape},
      {"Selu", &Operators::activation},
      {"Sigmoid", &Operators::activation},
      {"Sign", &Operators::activation},
      {"Slice", &Operators::slice},
      {"Softplus", &Operators::activation},
      {"Softsign", &Operators::activation},
      {"Sqrt", &Operators::activation},
      {"Squeeze", &Operators::squeeze},
      {"Sub", &Operators::subtract},
      {"Sum", &Operators::sum},
      {"Swish", &Operators::activation},
      {"Tanh", &Operators::activation},
      {"TopK", &Operators::top_k},
      {"Unsqueeze", &Operators::squeeze},
      {"ai.onnx.ml:SVMRegressor", &Operators::support_vectors},
      {"ai.onnx.ml:Scaler", &Operators::scaler},
  };
  return kHandlers;
}

}  // namespace datasentinel::fused
