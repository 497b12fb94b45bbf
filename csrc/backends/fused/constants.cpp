#include "backends/fused/constants.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <utility>

#include "core/error.h"

namespace datasentinel::fused {
namespace {

using onnx::Tensor;

std::optional<Tensor> elementwise(const Tensor& tensor, const std::function<double(double)>& operation) {
  Tensor result{.name = tensor.name,
                .type = tensor.type,
                .dims = tensor.dims,
                .reals = numbers(tensor),
                .integers = {}};
  std::transform(result.reals.begin(), result.reals.end(), result.reals.begin(), operation);
  return result;
}

/// Sizes and indices stay whole numbers; nothing beyond those that float64 holds.
std::optional<Tensor> as_whole(Tensor tensor) {
  for (const double value : std::exchange(tensor.reals, {})) {
    if (!(std::abs(value) < 0x1p53)) return std::nullopt;
    tensor.integers.push_back(static_cast<std::int64_t>(value));
  }
  return tensor;
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
  const bool whole = !left.integers.empty() && !right.integers.empty();
  result.integers.clear();
  result.reals.resize(std::max(x.size(), y.size()));
  for (std::size_t i = 0; i < result.reals.size(); ++i) {
    result.reals[i] = operation(x[x.size() == 1 ? 0 : i], y[y.size() == 1 ? 0 : i]);
  }
  return whole ? as_whole(std::move(result)) : result;
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

std::optional<Tensor> picked(const Tensor& tensor, const Shape& before, const Moved& moved) {
  Tensor result{.name = tensor.name, .type = tensor.type, .dims = {}, .reals = {}, .integers = {}};
  for (const std::size_t size : moved.shape.sizes()) result.dims.push_back(static_cast<std::int64_t>(size));
  if (moved.shape.batch != Shape::kNoBatch) {
    result.dims.insert(result.dims.begin() + static_cast<std::ptrdiff_t>(moved.shape.batch), 1);
  }
  if (!moved.picks && moved.shape.is_in_order()) {
    result.reals = tensor.reals;
    result.integers = tensor.integers;
    return result;
  }
  const std::vector<int> columns =
      moved.picks ? columns_of(before, *moved.picks) : columns_of(moved.shape, all_of(moved.shape));
  const auto pick = [&](auto& values, const auto& old) {
    values.reserve(columns.size());
    for (const int column : columns)
      values.push_back(column == kZero ? 0 : old[static_cast<std::size_t>(column)]);
  };
  if (tensor.reals.size() == tensor.size()) {
    pick(result.reals, tensor.reals);
  } else if (tensor.integers.size() == tensor.size()) {
    pick(result.integers, tensor.integers);
  } else {
    return std::nullopt;
  }
  return result;
}

std::optional<Tensor> joined(const std::vector<const Tensor*>& parts, std::int64_t axis) {
  const auto rank = static_cast<std::int64_t>(parts.front()->dims.size());
  const std::int64_t at = axis < 0 ? axis + rank : axis;
  if (at < 0 || at >= rank) return std::nullopt;
  Tensor result = *parts.front();
  result.dims[static_cast<std::size_t>(at)] = 0;
  const bool is_real = result.reals.size() == parts.front()->size();
  std::size_t outer = 1;
  for (std::int64_t i = 0; i < at; ++i)
    outer *= static_cast<std::size_t>(result.dims[static_cast<std::size_t>(i)]);
  if (outer == 0) return std::nullopt;
  for (const Tensor* part : parts) {
    if (part->dims.size() != result.dims.size() || part->size() == 0) return std::nullopt;
    for (std::size_t i = 0; i < part->dims.size(); ++i) {
      if (static_cast<std::int64_t>(i) == at) {
        result.dims[i] += part->dims[i];
      } else if (part->dims[i] != result.dims[i]) {
        return std::nullopt;
      }
    }
    if ((is_real ? part->reals.size() : part->integers.size()) != part->size()) return std::nullopt;
  }
  result.reals.clear();
  result.integers.clear();
  const auto append = [&](auto member) {
    for (std::size_t o = 0; o < outer; ++o) {
      for (const Tensor* part : parts) {
        const auto& values = part->*member;
        const auto block = static_cast<std::ptrdiff_t>(values.size() / outer);
        const auto begin = values.begin() + static_cast<std::ptrdiff_t>(o) * block;
        (result.*member).insert((result.*member).end(), begin, begin + block);
      }
    }
  };
  if (is_real) {
    append(&Tensor::reals);
  } else {
    append(&Tensor::integers);
  }
  return result;
}

}  // namespace datasentinel::fused
