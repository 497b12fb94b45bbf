#include <algorithm>
#include <set>
#include <string_view>
#include <utility>

#include "backends/fused/constants.h"
#include "backends/fused/frame_layout.h"
#include "backends/fused/operators.h"
#include "core/error.h"

namespace datasentinel::fused {

using onnx::Node;
using onnx::Tensor;

// What is known when the graph is loaded: constants, and shapes, in which kBatchSize stands for the number of
// rows. Of a constant for every row, one row is held, and the place of the rows' axis.

std::size_t Operators::rows_axis(const std::string& name) const {
  const auto found = rows_axes_.find(name);
  return found == rows_axes_.end() ? Shape::kNoBatch : found->second;
}

/// Whether it reads constants for every row; few operators know what to do with these.
bool Operators::reads_for_every_row(const Node& node) const {
  static const std::set<std::string_view> kByColumn = {"Add", "Div", "Mul", "Sub"};
  static const std::set<std::string_view> kFromStates = {"GRU", "LSTM", "RNN"};
  constexpr std::size_t kFirstState = 5;
  bool reads = false;
  for (std::size_t i = 0; i < node.inputs.size(); ++i) {
    if (rows_axis(node.inputs[i]) == Shape::kNoBatch) continue;
    const bool knows =
        kByColumn.contains(node.type()) || (kFromStates.contains(node.type()) && i >= kFirstState);
    if (!knows) refuse(node, "its input " + std::to_string(i) + " is a constant for every row");
    reads = true;
  }
  return reads;
}

const Tensor* Operators::known(const std::string& name) const {
  const auto found = sizes_.find(name);
  return found == sizes_.end() ? constant(name) : &found->second;
}

Known Operators::known_inputs(const Node& node) const {
  return [this, &node](std::size_t index) -> const Tensor* {
    if (index >= node.inputs.size()) return nullptr;
    if (rows_axis(node.inputs[index]) != Shape::kNoBatch) refuse(node, "it depends on the number of rows");
    return known(node.inputs[index]);
  };
}

/// Small files must not ask for much memory: each of many nodes may make something large of one constant.
void Operators::count_made(const Node& node, std::size_t numbers) {
  constexpr std::size_t kAlways = std::size_t{1} << 22;
  constexpr std::size_t kMostPerNumber = 16;
  numbers_made_ += numbers;
  if (numbers_made_ > kAlways + kMostPerNumber * builder_.numbers_read()) {
    refuse(node, "what is made of the graph's constants would take far more memory than they do");
  }
}

/// The weights of a layer as they are packed: for whole vectors of outputs.
void Operators::count_layer(const Node& node, std::size_t inputs, std::size_t outputs) {
  count_made(node, inputs * ((outputs + kWidestVector - 1) / kWidestVector * kWidestVector));
}

void Operators::hold(const std::string& name, Tensor tensor, std::size_t rows_axis) {
  if (known(name) != nullptr || symbols_.contains(name)) {
    throw Error(ErrorCode::invalid_model, "\"" + name + "\" is computed twice");
  }
  tensor.name = name;
  const bool has_batch = std::ranges::count(tensor.integers, kBatchSize) != 0;
  if (rows_axis != Shape::kNoBatch) rows_axes_.emplace(name, rows_axis);
  (has_batch ? sizes_ : folded_).emplace(name, std::move(tensor));
}

/// The rows' axis of what is computed element by element.
std::size_t Operators::common_rows_axis(const Node& node, const std::vector<const Tensor*>& inputs) const {
  std::size_t from_behind = 0;
  std::size_t rank = 0;
  for (const Tensor* tensor : inputs) {
    rank = std::max(rank, tensor->dims.size());
    const std::size_t axis = rows_axis(tensor->name);
    if (axis != Shape::kNoBatch) from_behind = tensor->dims.size() - axis;
  }
  if (from_behind == 0) return Shape::kNoBatch;
  for (const Tensor* tensor : inputs) {
    const std::size_t size = tensor->dims.size();
    const std::size_t axis = rows_axis(tensor->name);
    const bool fits = axis == Shape::kNoBatch ? size < from_behind || tensor->dims[size - from_behind] == 1
                                              : size - axis == from_behind;
    if (!fits) refuse(node, "it puts the rows of its inputs across");
  }
  return rank - from_behind;
}

bool Operators::fold_constants(const Node& node) {
  std::vector<const Tensor*> inputs;
  for (const std::string& name : node.inputs) {
    inputs.push_back(constant(name));
    if (inputs.back() == nullptr) return false;
  }
  auto tensor = fold(node, inputs);
  if (!tensor) return false;
  count_made(node, tensor->size());
  const std::size_t rows = common_rows_axis(node, inputs);
  hold(node.outputs[0], std::move(*tensor), rows);
  return true;
}

/// The axes of a constant, that of the rows apart.
Shape Operators::shape_of(const Tensor& tensor) const {
  std::vector<std::size_t> sizes(tensor.dims.begin(), tensor.dims.end());
  const std::size_t rows = rows_axis(tensor.name);
  if (rows != Shape::kNoBatch) sizes.erase(sizes.begin() + static_cast<std::ptrdiff_t>(rows));
  return Shape::in_order(sizes, rows);
}

/// The sizes of a tensor's axes, or of those that the node wants.
Tensor Operators::sizes_of(const Node& node) {
  const Tensor* first = known(node.inputs[0]);
  const Shape shape = first == nullptr ? symbol(node.inputs[0]).shape : shape_of(*first);
  std::vector<std::int64_t> sizes;
  for (const std::size_t size : shape.sizes()) sizes.push_back(static_cast<std::int64_t>(size));
  if (shape.batch != Shape::kNoBatch) {
    sizes.insert(sizes.begin() + static_cast<std::ptrdiff_t>(shape.batch), kBatchSize);
  }
  const auto count = static_cast<std::int64_t>(sizes.size());
  const auto bound = [count](std::int64_t at) {
    return std::clamp<std::int64_t>(at < 0 ? at + count : at, 0, count);
  };
  const std::int64_t start = bound(node.integer_or("start", 0));
  const std::int64_t end = std::max(start, bound(node.integer_or("end", count)));
  return {.name = {},
          .type = onnx::ElementType::int64,
          .dims = {end - start},
          .reals = {},
          .integers = {sizes.begin() + start, sizes.begin() + end}};
}

/// ConstantOfShape: one number, everywhere.
bool Operators::fold_filled(const Node& node, const Tensor& wanted) {
  const onnx::Attribute* value = node.attribute("value");
  Tensor result{
      .name = {}, .type = onnx::ElementType::float32, .dims = wanted.integers, .reals = {}, .integers = {}};
  if (value != nullptr) result.type = value->tensor.type;
  if (wanted.integers.size() != wanted.size()) refuse(node, "its shape is not of whole numbers");
  const auto rows = std::ranges::find(result.dims, kBatchSize);
  const std::size_t axis =
      rows == result.dims.end() ? Shape::kNoBatch : static_cast<std::size_t>(rows - result.dims.begin());
  if (rows != result.dims.end()) *rows = 1;
  const std::vector<std::size_t> sizes(result.dims.begin(), result.dims.end());
  // A second number of rows among them is below 0, too.
  if (std::ranges::any_of(result.dims, [](auto dim) { return dim < 0; }) || !product_of(sizes, kMaxWidth)) {
    refuse(node, "it makes an impossible number of elements");
  }
  if (value == nullptr || value->tensor.reals.size() == 1) {
    result.reals.assign(result.size(), value == nullptr ? 0 : value->tensor.reals[0]);
  } else if (value->tensor.integers.size() == 1) {
    result.integers.assign(result.size(), value->tensor.integers[0]);
  } else {
    return false;
  }
  count_made(node, result.size());
  hold(node.outputs[0], std::move(result), axis);
  return true;
}

bool Operators::fold_joined(const Node& node) {
  std::vector<const Tensor*> parts;
  const std::size_t rows = rows_axis(node.inputs[0]);
  for (const std::string& name : node.inputs) {
    parts.push_back(known(name));
    if (parts.back() == nullptr) return false;
    if (rows_axis(name) != rows) refuse(node, "it joins rows with columns");
  }
  const std::int64_t axis = node.integer_or("axis", 0);
  const auto rank = static_cast<std::int64_t>(parts[0]->dims.size());
  if (rows != Shape::kNoBatch && (axis < 0 ? axis + rank : axis) == static_cast<std::int64_t>(rows)) {
    refuse(node, "it joins rows");
  }
  for (const Tensor* part : parts) count_made(node, part->size());
  auto tensor = joined(parts, axis);
  if (!tensor) return false;
  hold(node.outputs[0], std::move(*tensor), rows);
  return true;
}

bool Operators::fold_moved(const Node& node, const Tensor& tensor) {
  Shape before = shape_of(tensor);
  // An Expand may put axes before the others.
  const Tensor* wanted = node.op_type == "Expand" ? known_inputs(node)(1) : nullptr;
  if (wanted != nullptr && wanted->integers.size() > before.rank()) {
    const std::size_t more = wanted->integers.size() - before.rank();
    before.axes.insert(before.axes.begin(), more, {});
    if (before.batch != Shape::kNoBatch) before.batch += more;
  }
  const auto change = moved(node, before, known_inputs(node));
  if (!change) return false;
  if (change->picks && !product_of(change->shape.sizes(), std::max(kMaxWidth, tensor.size()))) {
    refuse(node, "it makes an impossible number of elements");
  }
  auto result = picked(tensor, before, *change);
  if (!result) return false;
  count_made(node, result->size());
  hold(node.outputs[0], std::move(*result), change->shape.batch);
  return true;
}

/// Shapes, and constants that are moved about.
bool Operators::fold_sizes(const Node& node) {
  if (!node.domain.empty() || node.inputs.empty()) return false;
  const std::string& op = node.op_type;
  if (op == "Shape") {
    hold(node.outputs[0], sizes_of(node), Shape::kNoBatch);
    return true;
  }
  const Tensor* first = known(node.inputs[0]);
  if (first == nullptr || first->size() == 0) return false;
  if (op == "ConstantOfShape") return fold_filled(node, *first);
  if (op == "Concat") return fold_joined(node);
  if (op != "Cast" && op != "Identity") return fold_moved(node, *first);
  if (!sizes_.contains(node.inputs[0])) return false;
  hold(node.outputs[0], *first, rows_axis(node.inputs[0]));
  return true;
}

}  // namespace datasentinel::fused
