#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "backends/fused/constants.h"
#include "backends/fused/operators.h"
#include "core/error.h"

namespace datasentinel::fused {

using onnx::Node;
using onnx::Tensor;

// Operators that move, pick or reduce columns.

Symbol Operators::same(const Node& node) {
  if (node.op_type == "Cast" && node.integer_or("to", 0) != 1) refuse(node, "it casts to another type");
  if (node.op_type == "Flatten" && node.integer_or("axis", 1) != 1) refuse(node, "its axis is not 1");
  if (node.op_type == "Dropout") {
    const Tensor* training = constant_input(node, 2);
    const bool given = node.inputs.size() > 2 && !node.inputs[2].empty();
    const bool known = training != nullptr && training->size() == 1;
    if (given && (!known || numbers(*training)[0] != 0)) refuse(node, "it is in training mode");
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
  parts.reserve(node.inputs.size());
  for (std::size_t i = 0; i < node.inputs.size(); ++i) parts.push_back(&input(node, i));
  const auto axis = node.integer_or("axis", 0);
  const bool matrices =
      std::all_of(parts.begin(), parts.end(), [](const Symbol* part) { return part->rank == 2; });
  if (parts.empty() || !matrices || (axis != 1 && axis != -1)) refuse(node, "it does not join columns");
  return builder_.concat(parts);
}

Symbol Operators::gather(const Node& node) {
  const Tensor* indices = constant_input(node, 1);
  Symbol& x = input(node, 0);
  const auto axis = node.integer_or("axis", 0);
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
  std::vector<int> all(x.width);
  std::iota(all.begin(), all.end(), 0);
  if (columns == all && !indices->dims.empty()) {
    builder_.materialize(x);
    return taken(node, 0);
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
  const auto axis = node.integer_or("axis", 0);
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
    Symbol magnitude = builder_.apply({.function = Function::abs}, x, only_reader(node, 0));
    result = builder_.sum(magnitude, 1);
  } else {
    Symbol squares = builder_.square(x);
    result = builder_.sum(squares, 1);
    if (op == "ReduceL2") result = builder_.apply({.function = Function::sqrt}, result, true);
  }
  result.rank = node.integer_or("keepdims", 1) != 0 ? 2 : 1;
  return result;
}

Symbol Operators::top_k(const Node& node) {
  const Tensor* wanted = constant_input(node, 1);
  Symbol& x = input(node, 0);
  const auto axis = node.integer_or("axis", -1);
  if (wanted == nullptr || wanted->integers.size() != 1) refuse(node, "its k is not constant");
  if (x.rank != 2 || (axis != 1 && axis != -1)) refuse(node, "it does not select among columns");
  if (node.outputs.size() > 1 && is_used(node.outputs[1])) refuse(node, "its indices are read");
  const std::int64_t k = wanted->integers[0];
  if (k < 1 || k > static_cast<std::int64_t>(x.width)) {
    throw Error(ErrorCode::invalid_model, node.describe() + " wants " + std::to_string(k) + " of " +
                                              std::to_string(x.width) + " columns");
  }
  const Op op = node.integer_or("largest", 1) != 0 ? Op::largest : Op::smallest;
  return builder_.reduce(op, x, static_cast<std::size_t>(k));
}

}  // namespace datasentinel::fused
