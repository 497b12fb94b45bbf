#include "backends/fused/constants.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "core/error.h"

namespace datasentinel::fused {
namespace {

using onnx::Tensor;

std::optional<Tensor> elementwise(const Tensor& tensor, const std::function<double(double)>& operation) {
  Tensor result = tensor;
  result.reals = numbers(tensor);
  result.integers.clear();
  std::transform(result.reals.begin(), result.reals.end(), result.reals.begin(), operation);
  return result;
}

std::optional<Tensor> elementwise(const Tensor& left, const Tensor& right,
                                  const std::function<double(double, double)>& operation) {
  const auto x = numbers(left);
  const auto y = numbers(right);
  if (x.empty() || y.empty()) return std::nullopt;
  if (x.size() != 1 && y.size() != 1 && left.dims != right.dims) return std::nullopt;
  const bool left_leads =
      left.dims.size() > right.dims.size() || (left.dims.size() == right.dims.size() && x.size() >= y.size());
  Tensor result = left_leads ? left : right;
  if (result.size() != std::max(x.size(), y.size())) return std::nullopt;
  result.integers.clear();
  result.reals.resize(std::max(x.size(), y.size()));
  for (std::size_t i = 0; i < result.reals.size(); ++i) {
    result.reals[i] = operation(x[x.size() == 1 ? 0 : i], y[y.size() == 1 ? 0 : i]);
  }
  return result;
}

std::optional<Tensor> transpose(const onnx::Node& node, const Tensor& tensor) {
  if (tensor.dims.size() != 2) return std::nullopt;
  const onnx::Attribute* order = node.attribute("perm");
  Tensor result = tensor;
  if (order != nullptr && order->integers == std::vector<std::int64_t>{0, 1}) return result;
  const auto rows = static_cast<std::size_t>(tensor.dims[0]);
  const auto columns = static_cast<std::size_t>(tensor.dims[1]);
  const auto values = numbers(tensor);
  result.dims = {tensor.dims[1], tensor.dims[0]};
  result.integers.clear();
  result.reals.resize(values.size());
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t c = 0; c < columns; ++c) result.reals[c * rows + r] = values[r * columns + c];
  }
  return result;
}

}  // namespace

std::vector<double> numbers(const Tensor& tensor) {
  if (tensor.reals.size() == tensor.size()) return tensor.reals;
  if (tensor.integers.size() != tensor.size()) {
    throw Error(ErrorCode::unsupported_model, "constant \"" + tensor.name + "\" has type " +
                                                  to_string(tensor.type) + ", which is not supported");
  }
  return {tensor.integers.begin(), tensor.integers.end()};
}

std::optional<Tensor> fold(const onnx::Node& node, const std::vector<const Tensor*>& inputs) {
  const std::string& op = node.op_type;
  if (!node.domain.empty() || inputs.empty()) return std::nullopt;
  if (op == "Identity" || op == "Cast") {
    const bool to_real =
        op == "Identity" || (node.attribute("to") != nullptr && node.attribute("to")->integer == 1);
    if (!to_real) return std::nullopt;
    Tensor result = *inputs[0];
    if (op == "Cast") result.type = onnx::ElementType::float32;
    return result;
  }
  if (op == "Transpose") return transpose(node, *inputs[0]);
  if (op == "Neg") return elementwise(*inputs[0], [](double x) { return -x; });
  if (op == "Sqrt") return elementwise(*inputs[0], [](double x) { return std::sqrt(x); });
  if (op == "Reciprocal") return elementwise(*inputs[0], [](double x) { return 1 / x; });
  if (inputs.size() != 2) return std::nullopt;
  if (op == "Add") return elementwise(*inputs[0], *inputs[1], std::plus<>());
  if (op == "Sub") return elementwise(*inputs[0], *inputs[1], std::minus<>());
  if (op == "Mul") return elementwise(*inputs[0], *inputs[1], std::multiplies<>());
  if (op == "Div") return elementwise(*inputs[0], *inputs[1], std::divides<>());
  return std::nullopt;
}

}  // namespace datasentinel::fused
