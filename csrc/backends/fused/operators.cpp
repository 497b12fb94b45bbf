#include "backends/fused/operators.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "backends/fused/constants.h"
#include "core/error.h"

namespace datasentinel::fused {
namespace {

using onnx::Node;
using onnx::Tensor;

double real_attribute(const Node& node, std::string_view name, double otherwise) {
  const onnx::Attribute* attribute = node.attribute(name);
  return attribute == nullptr ? otherwise : attribute->real;
}

std::int64_t integer_attribute(const Node& node, std::string_view name, std::int64_t otherwise) {
  const onnx::Attribute* attribute = node.attribute(name);
  return attribute == nullptr ? otherwise : attribute->integer;
}

std::vector<double> negated(std::vector<double> values) {
  for (double& value : values) value = -value;
  return values;
}

FunctionCall call(Function function, double a = 0, double b = 0) {
  return {.function = function, .a = static_cast<float>(a), .b = static_cast<float>(b)};
}

}  // namespace

void refuse(const Node& node, const std::string& problem) {
  throw Error(ErrorCode::unsupported_model,
              "the fused backend cannot run " + node.describe() + ": " + problem);
}

// --- Inputs
// -------------------------------------------------------------------------------------------------

void Operators::define(const std::string& name, Symbol symbol) {
  if (constant(name) != nullptr || !symbols_.emplace(name, std::move(symbol)).second) {
    throw Error(ErrorCode::invalid_model, "\"" + name + "\" is computed twice");
  }
}

Symbol& Operators::symbol(const std::string& name) {
  const auto found = symbols_.find(name);
  if (found != symbols_.end()) return found->second;
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
  if (index >= node.inputs.size() || node.inputs[index].empty()) {
    throw Error(ErrorCode::invalid_model, node.describe() + " lacks input " + std::to_string(index));
  }
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
  if (node.outputs.empty()) throw Error(ErrorCode::invalid_model, node.describe() + " has no output");
  if (fold_constants(node)) return;
  if (node.domain.empty() && node.op_type == "Split") {
    split(node);
    return;
  }
  const auto handler = node.domain.empty() ? handlers().find(node.op_type) : handlers().end();
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
      {"Swish", &Operators::activation},
      {"Tanh", &Operators::activation},
      {"TopK", &Operators::top_k},
      {"Unsqueeze", &Operators::squeeze},
  };
  return kHandlers;
}

// --- Layers
// -------------------------------------------------------------------------------------------------

Symbol Operators::affine_layer(const Node& node, Symbol& x, const Tensor& weights, bool transposed,
                               double alpha) {
  const std::vector<double> values = numbers(weights);
  if (weights.dims.size() != 2) refuse(node, "its weights are not a matrix");
  const auto rows = static_cast<std::size_t>(weights.dims[0]);
  const auto columns = static_cast<std::size_t>(weights.dims[1]);
  Dense layer;
  layer.inputs = transposed ? columns : rows;
  layer.outputs = transposed ? rows : columns;
  if (x.rank != 2 || layer.inputs != x.width) {
    throw Error(ErrorCode::invalid_model, node.describe() + ": weights for " + std::to_string(layer.inputs) +
                                              " columns meet " + std::to_string(x.width));
  }
  if (layer.outputs == 0) refuse(node, "it has no columns");
  layer.weights.resize(values.size());
  for (std::size_t k = 0; k < layer.inputs; ++k) {
    for (std::size_t n = 0; n < layer.outputs; ++n) {
      layer.weights[k * layer.outputs + n] = alpha * values[transposed ? n * columns + k : k * columns + n];
    }
  }
  return builder_.dense(std::move(layer), x);
}

Symbol Operators::gemm(const Node& node) {
  if (integer_attribute(node, "transA", 0) != 0) refuse(node, "transA is not supported");
  const Tensor* weights = constant_input(node, 1);
  if (weights == nullptr) refuse(node, "its weights are not constant");
  Symbol result = affine_layer(node, input(node, 0), *weights, integer_attribute(node, "transB", 0) != 0,
                               real_attribute(node, "alpha", 1));
  if (node.inputs.size() < 3 || node.inputs[2].empty()) return result;
  const Tensor* bias = constant_input(node, 2);
  if (bias == nullptr) refuse(node, "its bias is not constant");
  std::vector<double> values = columns(node, *bias, result);
  for (double& value : values) value *= real_attribute(node, "beta", 1);
  return builder_.add(std::move(result), values);
}

Symbol Operators::mat_mul(const Node& node) {
  const Tensor* weights = constant_input(node, 1);
  if (weights == nullptr) refuse(node, "its second input is not constant");
  return affine_layer(node, input(node, 0), *weights, false, 1);
}

Symbol Operators::batch_normalization(const Node& node) {
  if (integer_attribute(node, "training_mode", 0) != 0) refuse(node, "training mode is not supported");
  Symbol x = taken(node, 0);
  std::vector<double> parameters[4];
  for (std::size_t i = 0; i < 4; ++i) {
    const Tensor* tensor = constant_input(node, i + 1);
    if (tensor == nullptr) refuse(node, "its parameters are not constant");
    parameters[i] = columns(node, *tensor, x);
  }
  auto& [gamma, beta, mean, variance] = parameters;
  const double epsilon = real_attribute(node, "epsilon", 1e-5F);
  for (std::size_t i = 0; i < x.width; ++i) gamma[i] /= std::sqrt(variance[i] + epsilon);
  return builder_.add(builder_.multiply(builder_.add(std::move(x), negated(mean)), gamma), beta);
}

// --- Arithmetic
// ---------------------------------------------------------------------------------------------

/// [batch, 1] with a constant of n numbers becomes [batch, n].
void Operators::expand_to(const Tensor& tensor, Symbol& x) {
  if (x.rank == 2 && x.width == 1 && tensor.size() > 1) x = builder_.expand(x, tensor.size());
}

Symbol Operators::broadcast_binary(const Node& node, Op op, Symbol& left, Symbol& right) {
  const bool widths_fit = left.width == right.width || left.width == 1 || right.width == 1;
  if (left.rank != right.rank || !widths_fit)
    refuse(node, "its inputs have shapes that do not fit row by row");
  return builder_.binary(op, left, right);
}

Symbol Operators::add(const Node& node) {
  for (const std::size_t side : {1, 0}) {
    const Tensor* tensor = constant_input(node, side);
    if (tensor == nullptr) continue;
    Symbol x = taken(node, 1 - side);
    expand_to(*tensor, x);
    const auto values = columns(node, *tensor, x);
    return builder_.add(std::move(x), values);
  }
  return broadcast_binary(node, Op::add, input(node, 0), input(node, 1));
}

Symbol Operators::subtract(const Node& node) {
  if (const Tensor* tensor = constant_input(node, 1)) {
    Symbol x = taken(node, 0);
    expand_to(*tensor, x);
    const auto values = negated(columns(node, *tensor, x));
    return builder_.add(std::move(x), values);
  }
  if (const Tensor* tensor = constant_input(node, 0)) {
    Symbol x = taken(node, 1);
    expand_to(*tensor, x);
    const auto values = columns(node, *tensor, x);
    // c - x as -(x - c)
    return builder_.multiply(builder_.add(std::move(x), negated(values)),
                             std::vector<double>(values.size(), -1));
  }
  Symbol& left = input(node, 0);
  Symbol& right = input(node, 1);
  if (left.rank != right.rank || left.width != right.width) {
    return broadcast_binary(node, Op::subtract, left, right);
  }
  return builder_.difference(left, right);
}

Symbol Operators::multiply(const Node& node) {
  for (const std::size_t side : {1, 0}) {
    const Tensor* tensor = constant_input(node, side);
    if (tensor == nullptr) continue;
    Symbol x = taken(node, 1 - side);
    expand_to(*tensor, x);
    const auto values = columns(node, *tensor, x);
    return builder_.multiply(std::move(x), values);
  }
  Symbol& left = input(node, 0);
  if (node.inputs[0] == node.inputs[1]) return builder_.square(left);
  return broadcast_binary(node, Op::multiply, left, input(node, 1));
}

Symbol Operators::divide(const Node& node) {
  if (const Tensor* tensor = constant_input(node, 1)) {
    Symbol x = taken(node, 0);
    expand_to(*tensor, x);
    auto values = columns(node, *tensor, x);
    for (double& value : values) {
      if (value == 0) refuse(node, "it divides by zero");
      value = 1 / value;
    }
    return builder_.multiply(std::move(x), values);
  }
  if (const Tensor* tensor = constant_input(node, 0)) {
    Symbol& x = input(node, 1);
    expand_to(*tensor, x);
    const auto values = columns(node, *tensor, x);
    return builder_.multiply(builder_.apply(call(Function::reciprocal), x, only_reader(node, 1)), values);
  }
  return broadcast_binary(node, Op::divide, input(node, 0), input(node, 1));
}

Symbol Operators::negate(const Node& node) {
  Symbol x = taken(node, 0);
  const std::vector<double> minus_one(x.width, -1);
  return builder_.multiply(std::move(x), minus_one);
}

Symbol Operators::power(const Node& node) {
  const Tensor* exponent = constant_input(node, 1);
  if (exponent == nullptr || exponent->size() != 1) refuse(node, "its exponent is not one constant number");
  const double power = numbers(*exponent)[0];
  Symbol& x = input(node, 0);
  if (power == 1) return same(node);
  if (power == 2) return builder_.square(x);
  if (power == 0.5) return builder_.apply(call(Function::sqrt), x, only_reader(node, 0));
  if (power == -1) return builder_.apply(call(Function::reciprocal), x, only_reader(node, 0));
  if (power == 3) {
    Symbol squared = builder_.square(x);
    return builder_.binary(Op::multiply, x, squared);
  }
  refuse(node, "its exponent is " + std::to_string(power) + "; it knows -1, 0.5, 1, 2 and 3");
}

// --- Element-wise functions
// ---------------------------------------------------------------------------------

Symbol Operators::activation(const Node& node) {
  constexpr double kSeluAlpha = 1.67326319217681884765625;
  constexpr double kSeluGamma = 1.05070102214813232421875;
  const std::string& op = node.op_type;
  const auto alpha = [&node](double otherwise) { return real_attribute(node, "alpha", otherwise); };
  FunctionCall function;
  if (op == "Relu") {
    function = call(Function::relu);
  } else if (op == "LeakyRelu") {
    function = call(Function::leaky_relu, alpha(0.01F));
  } else if (op == "Elu") {
    function = call(Function::elu, alpha(1), 1);
  } else if (op == "Selu") {
    const double gamma = real_attribute(node, "gamma", kSeluGamma);
    function = call(Function::elu, alpha(kSeluAlpha) * gamma, gamma);
  } else if (op == "Gelu") {
    const onnx::Attribute* kind = node.attribute("approximate");
    function = call(kind != nullptr && kind->text == "tanh" ? Function::gelu_tanh : Function::gelu);
  } else if (op == "Swish") {
    if (alpha(1) != 1) refuse(node, "alpha is not 1");
    function = call(Function::silu);
  } else if (op == "HardSigmoid") {
    function = call(Function::hard_sigmoid, alpha(0.2F), real_attribute(node, "beta", 0.5));
  } else {
    static const std::map<std::string_view, Function> kPlain = {
        {"Abs", Function::abs},           {"Erf", Function::erf},
        {"Exp", Function::exp},           {"HardSwish", Function::hard_swish},
        {"Log", Function::log},           {"Reciprocal", Function::reciprocal},
        {"Sigmoid", Function::sigmoid},   {"Sign", Function::sign},
        {"Softplus", Function::softplus}, {"Softsign", Function::softsign},
        {"Sqrt", Function::sqrt},         {"Tanh", Function::tanh},
    };
    function = call(kPlain.at(op));
  }
  return builder_.apply(function, input(node, 0), only_reader(node, 0));
}

Symbol Operators::clip(const Node& node) {
  double bounds[2] = {-std::numeric_limits<double>::infinity(), std::numeric_limits<double>::infinity()};
  const char* names[2] = {"min", "max"};  // attributes until opset 10, inputs since
  for (std::size_t i = 0; i < 2; ++i) {
    bounds[i] = real_attribute(node, names[i], bounds[i]);
    if (node.inputs.size() <= i + 1 || node.inputs[i + 1].empty()) continue;
    const Tensor* bound = constant_input(node, i + 1);
    if (bound == nullptr || bound->size() != 1) refuse(node, "its bounds are not constant");
    bounds[i] = numbers(*bound)[0];
  }
  return builder_.apply(call(Function::clip, bounds[0], bounds[1]), input(node, 0), only_reader(node, 0));
}

Symbol Operators::extremum(const Node& node) {
  const bool is_max = node.op_type == "Max";
  if (node.inputs.size() != 2) refuse(node, "it knows two inputs only");
  for (const std::size_t side : {1, 0}) {
    const Tensor* tensor = constant_input(node, side);
    if (tensor == nullptr) continue;
    if (tensor->size() != 1) refuse(node, "its constant is not one number");
    const double bound = numbers(*tensor)[0];
    const double infinity = std::numeric_limits<double>::infinity();
    return builder_.apply(call(Function::clip, is_max ? bound : -infinity, is_max ? infinity : bound),
                          input(node, 1 - side), only_reader(node, 1 - side));
  }
  return broadcast_binary(node, is_max ? Op::maximum : Op::minimum, input(node, 0), input(node, 1));
}

Symbol Operators::mish(const Node& node) {
  Symbol& x = input(node, 0);
  Symbol softplus = builder_.apply(call(Function::softplus), x, false);
  Symbol gate = builder_.apply(call(Function::tanh), softplus, false);
  return builder_.binary(Op::multiply, x, gate);
}

// --- Shapes and columns
// -------------------------------------------------------------------------------------

Symbol Operators::same(const Node& node) {
  if (node.op_type == "Cast" && integer_attribute(node, "to", 0) != 1)
    refuse(node, "it casts to another type");
  if (node.op_type == "Flatten" && integer_attribute(node, "axis", 1) != 1) refuse(node, "its axis is not 1");
  if (node.op_type == "Dropout") {
    const Tensor* training = constant_input(node, 2);
    const bool given = node.inputs.size() > 2 && !node.inputs[2].empty();
    if (given && (training == nullptr || numbers(*training)[0] != 0)) refuse(node, "it is in training mode");
    if (node.outputs.size() > 1 && is_used(node.outputs[1])) refuse(node, "its mask is read");
  }
  Symbol x = taken(node, 0);
  if (node.op_type == "Flatten") x.rank = 2;
  return x;
}

Symbol Operators::reshape(const Node& node) {
  const Tensor* shape = constant_input(node, 1);
  if (shape == nullptr) refuse(node, "its shape is not constant");
  Symbol x = taken(node, 0);
  const auto& dims = shape->integers;
  const auto width = static_cast<std::int64_t>(x.width);
  if (dims.size() == 1 && x.width == 1 && dims[0] == -1) {
    x.rank = 1;
  } else if (dims.size() == 2 && (dims[0] == -1 || dims[0] == 0) &&
             (dims[1] == width || (dims[1] == -1 && dims[0] == 0 && x.rank == 2))) {
    x.rank = 2;
  } else {
    refuse(node, "it mixes rows and columns");
  }
  return x;
}

std::vector<std::int64_t> Operators::axes(const Node& node, std::size_t index) const {
  if (const Tensor* tensor = constant_input(node, index)) return tensor->integers;
  const onnx::Attribute* attribute = node.attribute("axes");
  return attribute == nullptr ? std::vector<std::int64_t>() : attribute->integers;
}

Symbol Operators::squeeze(const Node& node) {
  const bool squeezes = node.op_type == "Squeeze";
  Symbol x = taken(node, 0);
  const auto axis = axes(node, 1);
  const bool is_column = axis.size() == 1 && (axis[0] == 1 || axis[0] == -1);
  if (!is_column || x.width != 1 || x.rank != (squeezes ? 2 : 1))
    refuse(node, "it changes more than one column");
  x.rank = squeezes ? 1 : 2;
  return x;
}

Symbol Operators::concat(const Node& node) {
  std::vector<Symbol*> parts;
  for (std::size_t i = 0; i < node.inputs.size(); ++i) parts.push_back(&input(node, i));
  const auto axis = integer_attribute(node, "axis", 0);
  const bool matrices =
      std::all_of(parts.begin(), parts.end(), [](const Symbol* part) { return part->rank == 2; });
  if (parts.empty() || !matrices || (axis != 1 && axis != -1)) refuse(node, "it does not join columns");
  return builder_.concat(parts);
}

Symbol Operators::gather(const Node& node) {
  const Tensor* indices = constant_input(node, 1);
  Symbol& x = input(node, 0);
  const auto axis = integer_attribute(node, "axis", 0);
  if (indices == nullptr || indices->dims.size() > 1 || (axis != 1 && axis != -1) || x.rank != 2) {
    refuse(node, "it does not pick constant columns");
  }
  const auto width = static_cast<std::int64_t>(x.width);
  std::vector<int> columns;
  for (const std::int64_t index : indices->integers) {
    if (index < -width || index >= width) {
      throw Error(ErrorCode::invalid_model, node.describe() + " picks column " + std::to_string(index) +
                                                " of " + std::to_string(width));
    }
    columns.push_back(static_cast<int>(index < 0 ? index + width : index));
  }
  Symbol result = builder_.gather(x, std::move(columns));
  if (indices->dims.empty()) result.rank = 1;
  return result;
}

Symbol Operators::slice(const Node& node) {
  std::int64_t bounds[4] = {0, 0, 0, 1};  // start, end, axis, step
  for (std::size_t i = 0; i < 4; ++i) {
    const bool given = i + 1 < node.inputs.size() && !node.inputs[i + 1].empty();
    const Tensor* tensor = constant_input(node, i + 1);
    if (!given && i > 1) continue;
    if (tensor == nullptr || tensor->integers.size() != 1) refuse(node, "it does not cut one constant range");
    bounds[i] = tensor->integers[0];
  }
  Symbol& x = input(node, 0);
  if (x.rank != 2 || (bounds[2] != 1 && bounds[2] != -1) || bounds[3] != 1) {
    refuse(node, "it does not cut one range of columns");
  }
  const auto width = static_cast<std::int64_t>(x.width);
  for (std::int64_t* bound : {&bounds[0], &bounds[1]}) {
    *bound = std::clamp<std::int64_t>(*bound < 0 ? *bound + width : *bound, 0, width);
  }
  std::vector<int> columns;
  for (std::int64_t c = bounds[0]; c < bounds[1]; ++c) columns.push_back(static_cast<int>(c));
  if (columns.empty()) refuse(node, "it cuts an empty range");
  return builder_.gather(x, std::move(columns));
}

void Operators::split(const Node& node) {
  Symbol& x = input(node, 0);
  const auto axis = integer_attribute(node, "axis", 0);
  if (x.rank != 2 || (axis != 1 && axis != -1)) refuse(node, "it does not split columns");
  const std::size_t parts = node.outputs.size();
  std::vector<std::int64_t> sizes(parts, static_cast<std::int64_t>((x.width + parts - 1) / parts));
  if (const Tensor* given = constant_input(node, 1)) sizes = given->integers;
  if (const onnx::Attribute* given = node.attribute("split")) sizes = given->integers;
  if (sizes.size() != parts) refuse(node, "it has not one size per part");
  std::int64_t start = 0;
  const auto width = static_cast<std::int64_t>(x.width);
  for (std::size_t i = 0; i < parts; ++i) {
    std::vector<int> columns;
    for (std::int64_t c = start; c < width && c - start < sizes[i]; ++c)
      columns.push_back(static_cast<int>(c));
    start += static_cast<std::int64_t>(columns.size());
    if (columns.empty()) refuse(node, "one of its parts is empty");
    if (is_used(node.outputs[i])) define(node.outputs[i], builder_.gather(x, std::move(columns)));
  }
}

// --- Reductions
// ---------------------------------------------------------------------------------------------

Symbol Operators::reduce(const Node& node) {
  const std::string& op = node.op_type;
  Symbol& x = input(node, 0);
  const auto axis = axes(node, 1);
  if (x.rank != 2 || axis.size() != 1 || (axis[0] != 1 && axis[0] != -1)) {
    refuse(node, "it does not reduce the columns of each row");
  }
  Symbol result;
  if (op == "ReduceMin") {
    result = builder_.reduce(Op::min_columns, x, 1);
  } else if (op == "ReduceMax") {
    result = builder_.reduce(Op::max_columns, x, 1);
  } else if (op == "ReduceSum") {
    result = builder_.sum(x, 1);
  } else if (op == "ReduceMean") {
    result = builder_.sum(x, 1.0 / static_cast<double>(x.width));
  } else if (op == "ReduceL1") {
    Symbol magnitude = builder_.apply(call(Function::abs), x, only_reader(node, 0));
    result = builder_.sum(magnitude, 1);
  } else {
    Symbol squares = builder_.square(x);
    result = builder_.sum(squares, 1);
    if (op == "ReduceL2") result = builder_.apply(call(Function::sqrt), result, true);
  }
  result.rank = integer_attribute(node, "keepdims", 1) != 0 ? 2 : 1;
  return result;
}

Symbol Operators::top_k(const Node& node) {
  const Tensor* wanted = constant_input(node, 1);
  Symbol& x = input(node, 0);
  const auto axis = integer_attribute(node, "axis", -1);
  if (wanted == nullptr || wanted->integers.size() != 1) refuse(node, "its k is not constant");
  if (x.rank != 2 || (axis != 1 && axis != -1)) refuse(node, "it does not select among columns");
  if (node.outputs.size() > 1 && is_used(node.outputs[1])) refuse(node, "its indices are read");
  const std::int64_t k = wanted->integers[0];
  if (k < 1 || k > static_cast<std::int64_t>(x.width)) {
    throw Error(ErrorCode::invalid_model, node.describe() + " wants " + std::to_string(k) + " of " +
                                              std::to_string(x.width) + " columns");
  }
  const Op op = integer_attribute(node, "largest", 1) != 0 ? Op::largest : Op::smallest;
  return builder_.reduce(op, x, static_cast<std::size_t>(k));
}

}  // namespace datasentinel::fused
