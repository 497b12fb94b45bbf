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
  builder_.keep(symbol);
  if (constant(name) != nullptr || !symbols_.emplace(name, std::move(symbol)).second) {
    throw Error(ErrorCode::invalid_model, "\"" + name + "\" is computed twice");
  }
}

void Operators::define_output(const Node& node, std::size_t index, Symbol symbol) {
  if (symbol.width == 0 || symbol.width > kMaxWidth)
    refuse(node, "its result has an impossible number of columns");
  define(node.outputs[index], std::move(symbol));
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
  if (sizes_.contains(name)) {
    refuse_graph("it computes with the number of rows, \"" + name + "\"");
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
  const std::vector<double> values = numbers(tensor);
  const Shape& shape = symbol.shape;
  const std::size_t rank = tensor.dims.size();
  if (const std::size_t rows = rows_axis(tensor.name); rows != Shape::kNoBatch) {
    if (shape.rank() - rank + rows != shape.batch) refuse(node, "it puts the rows of its inputs across");
  }
  if (rank <= shape.rank() && values.size() == 1) return std::vector<double>(symbol.width, values[0]);
  bool fits = rank <= shape.rank() && !values.empty();
  // Its elements as columns, of which axes that it does not have, or of one element, repeat some.
  Shape elements{.axes = std::vector<Shape::Axis>(shape.axes.size()), .batch = shape.batch};
  Picks picks;
  for (const Shape::Axis& axis : shape.axes) picks.emplace_back(axis.size, 0);
  std::size_t stride = 1;
  for (std::size_t i = rank; fits && i-- > 0;) {
    const auto size = static_cast<std::size_t>(tensor.dims[i]);
    const auto axis = shape.find(static_cast<std::int64_t>(shape.rank() - rank + i));
    if (size == 1) continue;
    fits = axis && size == shape.axes[*axis].size;
    if (!fits) break;
    elements.axes[*axis].stride = stride;
    picks[*axis] = all_of(size);
    stride *= size;
  }
  if (!fits) {
    refuse(node, "constant \"" + tensor.name + "\" is neither one number nor one per column (" +
                     std::to_string(symbol.width) + ")");
  }
  const std::vector<int> from = columns_of(elements, picks);
  const std::vector<int> to = columns_of(shape, all_of(shape));
  std::vector<double> result(symbol.width);
  for (std::size_t i = 0; i < to.size(); ++i) {
    result[static_cast<std::size_t>(to[i])] = values[static_cast<std::size_t>(from[i])];
  }
  return result;
}

void Operators::lower(const Node& node) {
  if (node.outputs.empty()) refuse(node, "it has no output");
  if (fold_constants(node) || fold_sizes(node)) return;
  const bool has_rows = reads_for_every_row(node);
  if (!has_rows && (fold_quantized(node) || fold_tree_sums(node))) return;
  const std::string type = node.type();
  if (type == "Split") return split(node);
  if (type == "GRU" || type == "LSTM" || type == "RNN") return recurrent(node);
  if (type == "ai.onnx.ml:TreeEnsembleRegressor") return tree_regressor(node);
  if (type == "ai.onnx.ml:TreeEnsembleClassifier") return tree_classifier(node);
  const auto handler = handlers().find(type);
  if (handler == handlers().end()) refuse(node, "it does not know this operator");
  define_output(node, 0, (this->*handler->second)(node));
}

const std::map<std::string_view, Operators::Handler>& Operators::handlers() {
  static const std::map<std::string_view, Handler> kHandlers = {
      {"Abs", &Operators::activation},
      {"Add", &Operators::add},
      {"BatchNormalization", &Operators::batch_normalization},
      {"Cast", &Operators::same},
      {"Clip", &Operators::clip},
      {"Concat", &Operators::concat},
      {"Conv", &Operators::convolution},
      {"ConvTranspose", &Operators::transposed_convolution},
      {"DequantizeLinear", &Operators::dequantize},
      {"Div", &Operators::divide},
      {"Dropout", &Operators::same},
      {"Elu", &Operators::activation},
      {"Erf", &Operators::activation},
      {"Exp", &Operators::activation},
      {"Expand", &Operators::move},
      {"Flatten", &Operators::move},
      {"Gather", &Operators::move},
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
      {"Pad", &Operators::move},
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
      {"Reshape", &Operators::move},
      {"Selu", &Operators::activation},
      {"Sigmoid", &Operators::activation},
      {"Sign", &Operators::activation},
      {"Slice", &Operators::move},
      {"Softplus", &Operators::activation},
      {"Softsign", &Operators::activation},
      {"Sqrt", &Operators::activation},
      {"Squeeze", &Operators::move},
      {"Sub", &Operators::subtract},
      {"Sum", &Operators::sum},
      {"Swish", &Operators::activation},
      {"Tanh", &Operators::activation},
      {"Tile", &Operators::move},
      {"TopK", &Operators::top_k},
      {"Transpose", &Operators::move},
      {"Unsqueeze", &Operators::move},
      {"ai.onnx.ml:SVMRegressor", &Operators::support_vectors},
      {"ai.onnx.ml:Scaler", &Operators::scaler},
  };
  return kHandlers;
}

}  // namespace datasentinel::fused
