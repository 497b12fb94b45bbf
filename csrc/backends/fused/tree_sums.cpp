#include "backends/fused/tree_sums.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "backends/fused/constants.h"
#include "backends/fused/operators.h"

namespace datasentinel::fused {
namespace {

using onnx::ElementType;
using onnx::Node;
using Numbers = std::span<const double>;
using NumberFunction = std::function<double(Numbers)>;
using Operands = std::vector<TreeOperand>;

template <typename Unary>
NumberFunction unary(const Unary& function) {
  return [function](Numbers x) { return function(x[0]); };
}

template <typename Binary>
NumberFunction binary(Binary function) {
  return [function](Numbers x) { return function(x[0], x[1]); };
}

/// Operators of any number of inputs.
template <typename Binary>
NumberFunction folded(Binary function) {
  return [function](Numbers x) {
    double result = x[0];
    for (const double next : x.subspan(1)) result = function(result, next);
    return result;
  };
}

/// What a Cast casts to.
ElementType target_of(const Node& node) {
  return ElementType{static_cast<std::int32_t>(node.integer_or("to", 0))};
}

ElementType type_of(const TreeOperand& operand) {
  return operand.sum != nullptr ? operand.sum->type : operand.constant->type;
}

/// The type of the numbers that `node` computes with.
ElementType input_type(const Node& node, const Operands& operands) {
  return type_of(operands[node.op_type == "Where" ? 1 : 0]);
}

/// The type of what it makes of them.
ElementType output_type(const Node& node, ElementType input) {
  static constexpr std::string_view kComparisons[] = {"And",  "Equal",       "Greater", "GreaterOrEqual",
                                                      "Less", "LessOrEqual", "Not",     "Or"};
  if (node.type() == "ai.onnx.ml:LabelEncoder") {
    return node.attribute("values_int64s") != nullptr ? ElementType::int64 : ElementType::float32;
  }
  if (node.op_type == "Cast") return target_of(node);
  const bool compares = std::ranges::find(kComparisons, node.op_type) != std::end(kComparisons);
  return compares ? ElementType::boolean : input;
}

/// The number of this type for `value`, which `node` reads or makes.
double rounded(const Node& node, ElementType type, double value) {
  constexpr double kOverflow = 0x1.ffffffp127;  // halfway from the greatest float32 to 2^128
  switch (type) {
    case ElementType::float32:
      return std::abs(value) >= kOverflow ? std::copysign(std::numeric_limits<double>::infinity(), value)
                                          : static_cast<double>(static_cast<float>(value));
    case ElementType::int32:
    case ElementType::int64:
      // Beyond 2^53, float64 leaves integers out.
      if (!(std::abs(value) <= (type == ElementType::int32 ? 0x1p31 - 1 : 0x1p53))) {
        refuse(node, "its integers leave the range of " + to_string(type) + " that float64 holds");
      }
      return std::trunc(value);
    default: return value;
  }
}

std::optional<NumberFunction> cast(const Node& node) {
  switch (target_of(node)) {
    case ElementType::float32:
    case ElementType::float64: return unary([](double x) { return x; });
    case ElementType::int32:
    case ElementType::int64: return unary([](double x) { return std::trunc(x); });
    case ElementType::boolean: return unary([](double x) { return x != 0 ? 1.0 : 0.0; });
    default: return std::nullopt;
  }
}

/// Number for number.
std::optional<NumberFunction> label_encoder(const Node& node) {
  const auto numbers_in = [&](std::string_view whole, std::string_view real) {
    std::vector<double> numbers;
    if (const onnx::Attribute* found = node.attribute(whole)) {
      numbers.assign(found->integers.begin(), found->integers.end());
    } else if (const onnx::Attribute* other = node.attribute(real)) {
      numbers.assign(other->reals.begin(), other->reals.end());
    }
    return numbers;
  };
  const std::vector<double> keys = numbers_in("keys_int64s", "keys_floats");
  const std::vector<double> values = numbers_in("values_int64s", "values_floats");
  if (keys.empty() || keys.size() != values.size()) return std::nullopt;
  std::map<double, double> table;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    if (std::isnan(keys[i])) refuse(node, "NaN is among its keys");
    table.emplace(keys[i], values[i]);
  }
  const double otherwise = node.attribute("values_int64s") != nullptr
                               ? static_cast<double>(node.integer_or("default_int64", -1))
                               : node.real_or("default_float", -0.0);
  return unary([table = std::move(table), otherwise](double key) {
    const auto found = std::isnan(key) ? table.end() : table.find(key);
    return found == table.end() ? otherwise : found->second;
  });
}

/// The function that `node` applies to numbers, of floating point unless they are `whole`.
std::optional<NumberFunction> function_of(const Node& node, bool whole) {
  static const std::map<std::string_view, NumberFunction> kFunctions = {
      {"Abs", unary([](double x) { return std::abs(x); })},
      {"Add", binary(std::plus<>())},
      {"And", binary([](double x, double y) { return x != 0 && y != 0 ? 1.0 : 0.0; })},
      {"Ceil", unary([](double x) { return std::ceil(x); })},
      {"Equal", binary([](double x, double y) { return x == y ? 1.0 : 0.0; })},
      {"Exp", unary([](double x) { return std::exp(x); })},
      {"Floor", unary([](double x) { return std::floor(x); })},
      {"Greater", binary([](double x, double y) { return x > y ? 1.0 : 0.0; })},
      {"GreaterOrEqual", binary([](double x, double y) { return x >= y ? 1.0 : 0.0; })},
      {"Identity", unary([](double x) { return x; })},
      {"Less", binary([](double x, double y) { return x < y ? 1.0 : 0.0; })},
      {"LessOrEqual", binary([](double x, double y) { return x <= y ? 1.0 : 0.0; })},
      {"Log", unary([](double x) { return std::log(x); })},
      {"Max", folded([](double x, double y) { return std::max(x, y); })},
      {"Min", folded([](double x, double y) { return std::min(x, y); })},
      {"Mul", binary(std::multiplies<>())},
      {"Neg", unary(std::negate<>())},
      {"Not", unary([](double x) { return x != 0 ? 0.0 : 1.0; })},
      {"Or", binary([](double x, double y) { return x != 0 || y != 0 ? 1.0 : 0.0; })},
      {"Pow", binary([](double x, double y) { return std::pow(x, y); })},
      {"Reciprocal", unary([](double x) { return 1 / x; })},
      {"Relu", unary([](double x) { return std::max(x, 0.0); })},
      {"Sigmoid", unary([](double x) { return 1 / (1 + std::exp(-x)); })},
      {"Sqrt", unary([](double x) { return std::sqrt(x); })},
      {"Sub", binary(std::minus<>())},
      {"Sum", folded(std::plus<>())},
      {"Tanh", unary([](double x) { return std::tanh(x); })},
      {"Where", [](Numbers x) { return x[0] != 0 ? x[1] : x[2]; }},
  };
  const std::string type = node.type();
  if (type == "Cast") return cast(node);
  if (type == "ai.onnx.ml:LabelEncoder") return label_encoder(node);
  if (type == "Div" && whole) return binary([](double x, double y) { return std::trunc(x / y); });
  if (type == "Div") return binary(std::divides<>());
  const auto found = kFunctions.find(type);
  return found == kFunctions.end() ? std::nullopt : std::optional(found->second);
}

/// The rank that a Reshape or Flatten, which leaves the numbers alone, turns one column into.
std::optional<int> reshaped_rank(const Node& node, const Operands& operands) {
  const std::string type = node.type();
  if (operands[0].sum == nullptr) return std::nullopt;
  if (type == "Reshape" && operands.size() == 2 && operands[1].constant != nullptr) {
    const auto& dims = operands[1].constant->integers;
    const bool keeps_rows = !dims.empty() && (dims[0] == -1 || (dims[0] == 0 && dims.size() == 2));
    if (!keeps_rows || dims.size() > 2 || (dims.size() == 2 && dims[1] != 1)) return std::nullopt;
    return static_cast<int>(dims.size());
  }
  if (type == "Flatten" && node.integer_or("axis", 1) == 1) return 2;
  return std::nullopt;
}

/// left + factor right
TreeSum sum_of(TreeSum left, const TreeSum& right, double factor) {
  left.constant += factor * right.constant;
  std::map<const Tree*, const LeafValues*> added;
  for (const LeafValues& term : right.forest) added.emplace(term.tree.get(), &term);
  for (LeafValues& term : left.forest) {
    const auto found = added.find(term.tree.get());
    if (found == added.end()) continue;
    const std::vector<double>& values = found->second->values;
    for (std::size_t leaf = 0; leaf < values.size(); ++leaf) term.values[leaf] += factor * values[leaf];
    added.erase(found);
  }
  for (const LeafValues& term : right.forest) {
    if (!added.contains(term.tree.get())) continue;
    left.forest.push_back(term);
    for (double& value : left.forest.back().values) value *= factor;
  }
  return left;
}

TreeSum scaled(TreeSum sum, double factor) {
  sum.constant *= factor;
  for (LeafValues& term : sum.forest) {
    for (double& value : term.values) value *= factor;
  }
  return sum;
}

/// One of the operands as a sum. What is read for the last time need not be copied.
TreeSum as_sum(const TreeOperand& operand) {
  if (operand.constant != nullptr) return {.forest = {}, .constant = numbers(*operand.constant)[0]};
  return operand.is_last_read ? std::move(*operand.sum) : *operand.sum;
}

/// No row's sum is farther from 0.
double greatest_magnitude(const TreeSum& sum) {
  double total = std::abs(sum.constant);
  for (const LeafValues& term : sum.forest) {
    double greatest = 0;
    for (const double value : term.values) greatest = std::max(greatest, std::abs(value));
    total += greatest;
  }
  return total;
}

/// The linear operators, which take sums over many trees. Nothing is taken unless there is a result.
std::optional<TreeSum> linear(const Node& node, const Operands& operands, ElementType input) {
  const std::string type = node.type();
  if (type == "Add" || type == "Sum") {
    TreeSum total = as_sum(operands[0]);
    for (std::size_t i = 1; i < operands.size(); ++i) {
      total = sum_of(std::move(total), as_sum(operands[i]), 1);
    }
    return total;
  }
  if (type == "Sub") return sum_of(as_sum(operands[0]), as_sum(operands[1]), -1);
  if (type == "Neg") return scaled(as_sum(operands[0]), -1);
  if (type == "Identity" || (type == "Cast" && is_real(target_of(node)))) return as_sum(operands[0]);
  if (type == "Mul") {
    for (const std::size_t side : {0, 1}) {
      if (operands[side].constant == nullptr) continue;
      return scaled(as_sum(operands[1 - side]), numbers(*operands[side].constant)[0]);
    }
  }
  if (type == "Div" && operands[1].constant != nullptr && is_real(input)) {
    const double divisor = numbers(*operands[1].constant)[0];
    if (divisor != 0) return scaled(as_sum(operands[0]), 1 / divisor);
  }
  return std::nullopt;
}

/// Any function of numbers that depend on the leaf of one tree.
std::optional<TreeSum> pointwise(const Node& node, const Operands& operands, const TreeSum& like,
                                 ElementType output) {
  if (like.forest.size() != 1) return std::nullopt;
  for (const TreeOperand& operand : operands) {
    if (operand.sum == nullptr) continue;
    if (operand.sum->forest.size() != 1 || operand.sum->forest[0].tree != like.forest[0].tree) {
      return std::nullopt;
    }
  }
  const auto function = function_of(node, !is_real(input_type(node, operands)));
  if (!function) return std::nullopt;
  TreeSum result = like;
  result.constant = 0;
  std::vector<double> arguments(operands.size());
  for (std::size_t i = 0; i < operands.size(); ++i) {
    const onnx::Tensor* constant = operands[i].constant;
    if (constant != nullptr) arguments[i] = rounded(node, constant->type, numbers(*constant)[0]);
  }
  for (std::size_t leaf = 0; leaf < result.forest[0].values.size(); ++leaf) {
    for (std::size_t i = 0; i < operands.size(); ++i) {
      if (operands[i].sum == nullptr) continue;
      const double value = operands[i].sum->forest[0].values[leaf];
      const double constant = operands[i].sum->constant;
      // 0 + -0 is 0.
      arguments[i] = rounded(node, operands[i].sum->type, constant == 0 ? value : constant + value);
    }
    result.forest[0].values[leaf] = rounded(node, output, (*function)(arguments));
  }
  return result;
}

}  // namespace

bool is_real(ElementType type) noexcept {
  return type == ElementType::float32 || type == ElementType::float64;
}

std::optional<TreeSum> fold_trees(const Node& node, const Operands& operands) {
  if (const auto rank = reshaped_rank(node, operands)) {
    TreeSum result = as_sum(operands[0]);
    result.rank = *rank;
    return result;
  }
  const TreeSum* like = nullptr;
  for (const TreeOperand& operand : operands) {
    if (operand.sum == nullptr) {
      const onnx::Tensor& tensor = *operand.constant;
      if (tensor.size() != 1 || tensor.dims.size() > 2) return std::nullopt;
      continue;
    }
    if (like == nullptr) like = operand.sum;
    if (operand.sum->input != like->input || operand.sum->rank != like->rank) return std::nullopt;
  }
  for (const TreeOperand& operand : operands) {
    // [batch] and [1, 1] make [1, batch].
    if (operand.constant != nullptr && static_cast<int>(operand.constant->dims.size()) > like->rank) {
      return std::nullopt;
    }
  }
  const ElementType input = input_type(node, operands);
  const ElementType output = output_type(node, input);
  const int value = like->input;
  const int rank = like->rank;
  auto result = pointwise(node, operands, *like, output);
  if (!result) result = linear(node, operands, like->type);
  if (!result) return std::nullopt;
  result->input = value;
  result->rank = rank;
  result->type = output;
  if (!is_real(output)) static_cast<void>(rounded(node, output, greatest_magnitude(*result)));
  return result;
}

}  // namespace datasentinel::fused
