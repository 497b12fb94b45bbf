#include <limits>
#include <map>

#include "backends/fused/constants.h"
#include "backends/fused/operators.h"
#include "core/error.h"

namespace datasentinel::fused {

using onnx::Node;
using onnx::Tensor;

// Element-wise functions.

namespace {

FunctionCall call(Function function, double a = 0, double b = 0) {
  return {.function = function, .a = static_cast<float>(a), .b = static_cast<float>(b)};
}

}  // namespace

Symbol Operators::activation(const Node& node) {
  constexpr double kSeluAlpha = 1.67326319217681884765625;
  constexpr double kSeluGamma = 1.05070102214813232421875;
  const std::string& op = node.op_type;
  const auto alpha = [&node](double otherwise) { return node.real_or("alpha", otherwise); };
  FunctionCall function;
  if (op == "Relu") {
    function = call(Function::relu);
  } else if (op == "LeakyRelu") {
    function = call(Function::leaky_relu, alpha(0.01F));
  } else if (op == "Elu") {
    function = call(Function::elu, alpha(1), 1);
  } else if (op == "Selu") {
    const double gamma = node.real_or("gamma", kSeluGamma);
    function = call(Function::elu, alpha(kSeluAlpha) * gamma, gamma);
  } else if (op == "Gelu") {
    const onnx::Attribute* kind = node.attribute("approximate");
    function = call(kind != nullptr && kind->text == "tanh" ? Function::gelu_tanh : Function::gelu);
  } else if (op == "Swish") {
    if (alpha(1) != 1) refuse(node, "alpha is not 1");
    function = call(Function::silu);
  } else if (op == "HardSigmoid") {
    function = call(Function::hard_sigmoid, alpha(0.2F), node.real_or("beta", 0.5));
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
    bounds[i] = node.real_or(names[i], bounds[i]);
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

}  // namespace datasentinel::fused
