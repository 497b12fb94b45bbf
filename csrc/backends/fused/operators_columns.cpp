#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "backends/fused/constants.h"
#include "backends/fused/moves.h"
#include "backends/fused/operators.h"
#include "core/error.h"

namespace datasentinel::fused {

using onnx::Node;
using onnx::Tensor;

// Operators that move, pick or reduce columns.

Symbol Operators::same(const Node& node) {
  if (node.op_type == "Cast" && node.integer_or("to", 0) != 1) refuse(node, "it casts to another type");
  if (node.op_type == "Dropout") {
    const Tensor* training = constant_input(node, 2);
    const bool given = node.inputs.size() > 2 && !node.inputs[2].empty();
    const bool known = training != nullptr && training->size() == 1;
    if (given && (!known || numbers(*training)[0] != 0)) refuse(node, "it is in training mode");
    if (node.outputs.size() > 1 && is_used(node.outputs[1])) refuse(node, "its mask is read");
  }
  return taken(node, 0);
}

Symbol Operators::move(const Node& node) {
  Symbol& x = input(node, 0);
  const Moved change = *moved(node, x.shape, known_inputs(node));
  if (!change.picks && !only_reader(node, 0)) builder_.share(x);
  return placed(node, x, change);
}

/// x, moved.
Symbol Operators::placed(const Node& node, Symbol& x, const Moved& moved) {
  if (moved.picks) {
    std::vector<std::size_t> sizes(moved.picks->size());
    std::ranges::transform(*moved.picks, sizes.begin(), &std::vector<int>::size);
    if (!product_of(sizes, kMaxWidth)) refuse(node, "its result has an impossible number of columns");
    std::vector<int> columns = columns_of(x.shape, *moved.picks);
    if (!are_all_of(columns, x.width)) {
      Symbol result = builder_.gather(x, std::move(columns));
      result.shape = moved.shape;
      return result;
    }
    builder_.materialize(x);
    builder_.share(x);
  }
  Symbol result = x;
  result.shape = moved.shape;
  return result;
}

void Operators::split(const Node& node) {
  Symbol& x = input(node, 0);
  const std::vector<Moved> parts = split_into_parts(node, x.shape, known_inputs(node));
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (is_used(node.outputs[i])) define_output(node, i, placed(node, x, parts[i]));
  }
}

/// With its columns in the order of its axes.
void Operators::put_in_order(Symbol& x) {
  if (x.shape.is_in_order()) return;
  const Shape shape = Shape::in_order(x.shape.sizes(), x.shape.batch);
  x = builder_.gather(x, columns_of(x.shape, all_of(x.shape)));
  x.shape = shape;
}

Symbol Operators::concat(const Node& node) {
  const Shape first = input(node, 0).shape;
  const auto axis = first.find(node.integer_or("axis", 0));
  if (!axis) refuse(node, "it does not join columns");
  std::vector<std::size_t> sizes = first.sizes();
  sizes[*axis] = 0;
  std::vector<Symbol*> parts;
  parts.reserve(node.inputs.size());
  for (std::size_t i = 0; i < node.inputs.size(); ++i) {
    Symbol& part = *parts.emplace_back(&input(node, i));
    put_in_order(part);
    std::vector<std::size_t> like = part.shape.sizes();
    if (like.size() == sizes.size()) like[*axis] = sizes[*axis] += like[*axis];
    if (part.shape.batch != first.batch || like != sizes) refuse(node, "it does not join columns");
  }
  std::size_t outer = 1;
  for (std::size_t i = 0; i < *axis; ++i) outer *= sizes[i];
  Symbol result = builder_.concat(parts);
  if (outer > 1) {
    std::vector<int> columns;
    columns.reserve(result.width);
    for (std::size_t o = 0; o < outer; ++o) {
      std::size_t start = 0;
      for (const Symbol* part : parts) {
        const std::size_t block = part->width / outer;
        for (std::size_t c = 0; c < block; ++c) columns.push_back(static_cast<int>(start + o * block + c));
        start += part->width;
      }
    }
    result = builder_.gather(result, std::move(columns));
  }
  result.shape = Shape::in_order(sizes, first.batch);
  return result;
}

/// The sums, or extremes, over some of the axes: `inner` has these last, and all lie in order.
Symbol Operators::reduce_last(const Node& node, Symbol inner, std::size_t count) {
  const std::size_t kept = inner.width / count;
  const std::string& op = node.op_type;
  if (op == "ReduceMin" || op == "ReduceMax") {
    const Op better = op == "ReduceMin" ? Op::minimum : Op::maximum;
    // Both halves, which share the middle one of an odd number.
    for (std::size_t left = count; left > 1; left -= left / 2) {
      const std::size_t half = left - left / 2;
      const auto part = [&](std::size_t first) {
        Picks picks{all_of(kept), all_of(half)};
        for (int& pick : picks[1]) pick += static_cast<int>(first);
        return builder_.gather(inner, columns_of(Shape::in_order({kept, left}), picks));
      };
      Symbol begin = part(0);
      Symbol end = part(left - half);
      inner = builder_.binary(better, begin, end);
    }
    return inner;
  }
  if (op == "ReduceL1") {
    inner = builder_.apply({.function = Function::abs}, inner, false);
  } else if (op == "ReduceL2" || op == "ReduceSumSquare") {
    inner = builder_.square(inner);
  }
  count_layer(node, count, 1);
  const double weight = op == "ReduceMean" ? 1.0 / static_cast<double>(count) : 1.0;
  Symbol sums = builder_.dense({.inputs = count,
                                .outputs = 1,
                                .windows = kept,
                                .step = count,
                                .weights = std::vector<double>(count, weight),
                                .bias = {},
                                .quanta = {}},
                               inner);
  return op == "ReduceL2" ? builder_.apply({.function = Function::sqrt}, sums, true) : sums;
}

/// The same over all columns.
Symbol Operators::reduce_all(const Node& node, Symbol& x) {
  const std::string& op = node.op_type;
  if (op == "ReduceMin") return builder_.reduce(Op::min_columns, x, 1);
  if (op == "ReduceMax") return builder_.reduce(Op::max_columns, x, 1);
  if (op == "ReduceSum") return builder_.sum(x, 1);
  if (op == "ReduceMean") return builder_.sum(x, 1.0 / static_cast<double>(x.width));
  if (op == "ReduceL1") {
    Symbol magnitude = builder_.apply({.function = Function::abs}, x, only_reader(node, 0));
    return builder_.sum(magnitude, 1);
  }
  Symbol squares = builder_.square(x);
  Symbol result = builder_.sum(squares, 1);
  return op == "ReduceL2" ? builder_.apply({.function = Function::sqrt}, result, true) : result;
}

Symbol Operators::reduce(const Node& node) {
  Symbol& x = input(node, 0);
  std::vector<bool> goes(x.shape.axes.size(), false);
  const auto axes = axes_of(node, known_inputs(node), 1);
  for (const std::int64_t axis : axes) {
    const auto found = x.shape.find(axis);
    if (!found) refuse(node, "it does not reduce the columns of each row");
    goes[*found] = true;
  }
  if (axes.empty()) refuse(node, "it does not reduce the columns of each row");
  const bool keeps = node.integer_or("keepdims", 1) != 0;
  Shape grouped;  // What stays, then what goes.
  std::vector<std::size_t> sizes;
  std::size_t batch = x.shape.batch;
  for (std::size_t i = 0; i < goes.size(); ++i) {
    if (!goes[i]) grouped.axes.push_back(x.shape.axes[i]);
    if (!goes[i] || keeps) sizes.push_back(goes[i] ? 1 : x.shape.axes[i].size);
    if (goes[i] && !keeps && i < x.shape.batch) --batch;
  }
  std::size_t count = 1;
  for (std::size_t i = 0; i < goes.size(); ++i) {
    if (!goes[i]) continue;
    grouped.axes.push_back(x.shape.axes[i]);
    count *= x.shape.axes[i].size;
  }
  Symbol result;
  if (count == x.width) {
    result = reduce_all(node, x);
  } else if (grouped.is_in_order()) {
    builder_.share(x);
    result = reduce_last(node, x, count);
  } else {
    result = reduce_last(node, builder_.gather(x, columns_of(grouped, all_of(grouped))), count);
  }
  result.shape = Shape::in_order(sizes, batch);
  return result;
}

Symbol Operators::top_k(const Node& node) {
  const Tensor* wanted = constant_input(node, 1);
  Symbol& x = input(node, 0);
  const auto axis = node.integer_or("axis", -1);
  if (wanted == nullptr || wanted->integers.size() != 1) refuse(node, "its k is not constant");
  if (!x.shape.is_matrix() || (axis != 1 && axis != -1)) refuse(node, "it does not select among columns");
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
