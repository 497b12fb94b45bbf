#include "backends/fused/moves.h"

#include <algorithm>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "backends/fused/operators.h"
#include "core/error.h"

namespace datasentinel::fused {
namespace {

using onnx::Node;
using onnx::Tensor;
using Numbers = std::vector<std::int64_t>;

/// Each of them may be picked from at will.
constexpr std::size_t kMostAxes = 8;

[[noreturn]] void reject(const Node& node, const std::string& problem) {
  throw Error(ErrorCode::invalid_model, node.describe() + " " + problem);
}

/// Whole numbers in the input at `index` or, in early versions of the operator, in an attribute; none of them
/// kBatchSize. Nothing where neither is there.
std::optional<Numbers> numbers_in(const Node& node, const Known& known, std::size_t index,
                                  std::string_view attribute) {
  if (const Tensor* tensor = known(index)) {
    if (std::ranges::count(tensor->integers, kBatchSize) != 0)
      refuse(node, "it depends on the number of rows");
    return tensor->integers;
  }
  if (index < node.inputs.size() && !node.inputs[index].empty()) {
    refuse(node, "its input " + std::to_string(index) + " is not constant");
  }
  const onnx::Attribute* found = node.attribute(attribute);
  return found == nullptr ? std::nullopt : std::optional(found->integers);
}

/// One of the axes that are not the rows'.
std::size_t column_axis(const Node& node, const Shape& x, std::int64_t axis) {
  const auto found = x.find(axis);
  if (!found) refuse(node, "it works on the rows' axis, or on one that is not there");
  return *found;
}

/// The elements picked of every axis, in order; all of an axis that none are picked of.
Moved picked_of(const Shape& x, Picks picks) {
  for (std::size_t i = 0; i < picks.size(); ++i) {
    if (picks[i].empty()) picks[i] = all_of(x.axes[i].size);
  }
  std::vector<std::size_t> sizes(picks.size());
  std::ranges::transform(picks, sizes.begin(), &std::vector<int>::size);
  return {.shape = Shape::in_order(sizes, x.batch), .picks = std::move(picks)};
}

std::size_t size_before_rows(const std::vector<std::size_t>& sizes, std::size_t batch) {
  std::size_t size = 1;
  for (std::size_t i = 0; i < batch; ++i) size *= sizes[i];
  return size;
}

Moved transposed(const Node& node, const Shape& x, const Known& /*known*/) {
  Numbers order(x.rank());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::int64_t>(order.size() - 1 - i);
  if (const onnx::Attribute* given = node.attribute("perm")) order = given->integers;
  Numbers sorted = order;
  std::ranges::sort(sorted);
  for (std::size_t i = 0; i < sorted.size(); ++i) {
    if (sorted.size() != x.rank() || sorted[i] != static_cast<std::int64_t>(i)) {
      reject(node, "has a \"perm\" that is no order of its input's axes");
    }
  }
  Moved result{.shape = {.axes = {}, .batch = x.batch}, .picks = {}};
  for (std::size_t i = 0; i < order.size(); ++i) {
    if (const auto axis = x.find(order[i])) {
      result.shape.axes.push_back(x.axes[*axis]);
    } else {
      result.shape.batch = i;
    }
  }
  if (x.is_matrix() && result.shape.batch != 0) refuse(node, "it mixes rows and columns");
  return result;
}

Moved reshaped(const Node& node, const Shape& x, const Known& known) {
  const Tensor* wanted = known(1);
  const onnx::Attribute* attribute = node.attribute("shape");
  if (wanted == nullptr && attribute == nullptr) refuse(node, "its shape is not constant");
  const Numbers& dims = wanted != nullptr ? wanted->integers : attribute->integers;
  const bool keeps_with_zero = node.integer_or("allowzero", 0) == 0;
  const std::vector<std::size_t> before = x.sizes();
  const std::size_t width = *product_of(before, std::numeric_limits<std::size_t>::max());
  std::vector<std::size_t> sizes;
  std::size_t batch = Shape::kNoBatch;
  std::size_t others = 1;
  std::optional<std::size_t> inferred;  // among `sizes`
  for (std::size_t i = 0; i < dims.size(); ++i) {
    std::int64_t dim = dims[i];
    if (dim == 0 && keeps_with_zero) {
      if (i >= x.rank()) reject(node, "keeps an axis that its input does not have");
      dim = i == x.batch ? kBatchSize
                         : static_cast<std::int64_t>(x.axes[*x.find(static_cast<std::int64_t>(i))].size);
    }
    if (dim == kBatchSize && batch == Shape::kNoBatch) {
      batch = sizes.size();
    } else if (dim == -1 && !inferred) {
      inferred = sizes.size();
      sizes.push_back(1);
    } else if (dim > 0 && others <= width / static_cast<std::size_t>(dim)) {
      sizes.push_back(static_cast<std::size_t>(dim));
      others *= sizes.back();
    } else {
      refuse(node, "it mixes rows and columns");
    }
  }
  if (x.batch != Shape::kNoBatch && batch == Shape::kNoBatch && inferred) {
    batch = *inferred;
    sizes.erase(sizes.begin() + static_cast<std::ptrdiff_t>(batch));
  } else if (inferred) {
    sizes[*inferred] = width / others;
    others *= sizes[*inferred];
  }
  const bool has_rows = x.batch != Shape::kNoBatch;
  if (others != width || has_rows != (batch != Shape::kNoBatch) ||
      (has_rows && size_before_rows(sizes, batch) != size_before_rows(before, x.batch))) {
    refuse(node, "it mixes rows and columns");
  }
  return {.shape = Shape::in_order(sizes, batch),
          .picks = x.is_in_order() ? std::nullopt : std::optional(all_of(x))};
}

Moved flattened(const Node& node, const Shape& x, const Known& /*known*/) {
  const auto axis = node.integer_or("axis", 1);
  if (x.batch != 0 || (axis != 1 && axis != 1 - static_cast<std::int64_t>(x.rank()))) {
    refuse(node, "its axis is not 1, behind the rows");
  }
  return {.shape = Shape::matrix(*product_of(x.sizes(), std::numeric_limits<std::size_t>::max())),
          .picks = x.is_in_order() ? std::nullopt : std::optional(all_of(x))};
}

Moved squeezed(const Node& node, const Shape& x, const Known& known) {
  std::vector<bool> goes(x.axes.size(), false);
  const Numbers axes = axes_of(node, known, 1);
  if (axes.empty()) refuse(node, "it does not say which axes");
  for (const std::int64_t axis : axes) goes[column_axis(node, x, axis)] = true;
  Moved result{.shape = {.axes = {}, .batch = x.batch}, .picks = {}};
  for (std::size_t i = 0; i < x.axes.size(); ++i) {
    if (!goes[i]) {
      result.shape.axes.push_back(x.axes[i]);
      continue;
    }
    if (x.axes[i].size != 1) reject(node, "squeezes an axis of " + std::to_string(x.axes[i].size));
    if (x.batch != Shape::kNoBatch && i < x.batch) --result.shape.batch;
  }
  return result;
}

Moved unsqueezed(const Node& node, const Shape& x, const Known& known) {
  const Numbers axes = axes_of(node, known, 1);
  const std::size_t rank = x.rank() + axes.size();
  if (axes.empty() || rank > kMostAxes) refuse(node, "it makes no axes, or too many");
  std::vector<bool> is_new(rank, false);
  for (const std::int64_t axis : axes) {
    const std::int64_t place = axis < 0 ? axis + static_cast<std::int64_t>(rank) : axis;
    if (place < 0 || place >= static_cast<std::int64_t>(rank)) reject(node, "makes an axis out of range");
    is_new[static_cast<std::size_t>(place)] = true;
  }
  if (static_cast<std::size_t>(std::ranges::count(is_new, true)) != axes.size()) {
    reject(node, "makes an axis twice");
  }
  Moved result{.shape = {.axes = {}, .batch = x.batch}, .picks = {}};
  std::int64_t old = 0;
  for (std::size_t place = 0; place < rank; ++place) {
    if (is_new[place]) {
      result.shape.axes.push_back({});
    } else if (const auto axis = x.find(old++)) {
      result.shape.axes.push_back(x.axes[*axis]);
    } else {
      result.shape.batch = place;
    }
  }
  return result;
}

Moved sliced(const Node& node, const Shape& x, const Known& known) {
  const auto starts = numbers_in(node, known, 1, "starts");
  const auto ends = numbers_in(node, known, 2, "ends");
  if (!starts || !ends || starts->size() != ends->size()) refuse(node, "it does not cut constant ranges");
  const std::size_t count = starts->size();
  Numbers axes(count);
  for (std::size_t i = 0; i < count; ++i) axes[i] = static_cast<std::int64_t>(i);
  axes = numbers_in(node, known, 3, "axes").value_or(axes);
  const Numbers steps = numbers_in(node, known, 4, "").value_or(Numbers(count, 1));
  if (axes.size() != count || steps.size() != count) reject(node, "has not one axis and step per range");
  Picks picks(x.axes.size());
  for (std::size_t i = 0; i < count; ++i) {
    const std::int64_t start = (*starts)[i];
    const std::int64_t end = (*ends)[i];
    const bool is_everything = start == 0 && steps[i] == 1 && end >= std::numeric_limits<std::int32_t>::max();
    if (is_everything) continue;  // of the rows, too
    const std::size_t axis = column_axis(node, x, axes[i]);
    const auto size = static_cast<std::int64_t>(x.axes[axis].size);
    if (steps[i] == 0) reject(node, "has a step of 0");
    const bool forwards = steps[i] > 0;
    const auto bound = [&](std::int64_t at) {
      return forwards ? std::clamp<std::int64_t>(at < 0 ? at + size : at, 0, size)
                      : std::clamp<std::int64_t>(at < 0 ? at + size : at, -1, size - 1);
    };
    picks[axis].clear();
    const std::int64_t step = std::clamp(steps[i], -size, size);
    for (std::int64_t c = bound(start); forwards ? c < bound(end) : c > bound(end); c += step) {
      picks[axis].push_back(static_cast<int>(c));
    }
    if (picks[axis].empty()) refuse(node, "it cuts an empty range");
  }
  return picked_of(x, std::move(picks));
}

Moved gathered(const Node& node, const Shape& x, const Known& known) {
  const Tensor* indices = known(1);
  if (indices == nullptr || indices->dims.size() > 1) refuse(node, "it does not pick constant columns");
  const std::size_t axis = column_axis(node, x, node.integer_or("axis", 0));
  const auto size = static_cast<std::int64_t>(x.axes[axis].size);
  Picks picks(x.axes.size());
  for (const std::int64_t index : indices->integers) {
    if (index < -size || index >= size) {
      reject(node, "picks column " + std::to_string(index) + " of " + std::to_string(size));
    }
    picks[axis].push_back(static_cast<int>(index < 0 ? index + size : index));
  }
  if (picks[axis].empty()) refuse(node, "it picks nothing");
  Moved result = picked_of(x, std::move(picks));
  if (!indices->dims.empty()) return result;
  if (x.batch != Shape::kNoBatch && axis < x.batch) --result.shape.batch;
  result.shape.axes.erase(result.shape.axes.begin() + static_cast<std::ptrdiff_t>(axis));
  return result;
}

/// An axis of one element repeated.
std::vector<int> repeated(const Node& node, std::int64_t size) {
  if (size < 1 || size > std::int64_t{kMaxWidth}) refuse(node, "it makes an impossible number of columns");
  return std::vector<int>(static_cast<std::size_t>(size), 0);
}

Moved expanded(const Node& node, const Shape& x, const Known& known) {
  const Tensor* wanted = known(1);
  if (wanted == nullptr) refuse(node, "its shape is not constant");
  const Numbers& dims = wanted->integers;
  if (dims.size() > x.rank()) refuse(node, "it makes new axes");
  Picks picks = all_of(x);
  std::size_t rows = x.batch;
  for (std::size_t i = 0; i < dims.size(); ++i) {
    const std::size_t place = x.rank() - dims.size() + i;
    const auto axis = x.find(static_cast<std::int64_t>(place));
    if (!axis) {
      if (dims[i] != kBatchSize && dims[i] != 1) refuse(node, "it repeats rows");
    } else if (dims[i] == kBatchSize) {
      if (rows != Shape::kNoBatch || picks[*axis].size() != 1) refuse(node, "it makes columns of rows");
      rows = place;
    } else if (picks[*axis].size() == 1) {
      picks[*axis] = repeated(node, dims[i]);
    } else if (dims[i] != 1 && dims[i] != static_cast<std::int64_t>(picks[*axis].size())) {
      reject(node, "expands an axis of " + std::to_string(picks[*axis].size()));
    }
  }
  Moved result = picked_of(x, std::move(picks));
  if (rows != x.batch) {  // A constant for every row.
    result.shape.axes.erase(result.shape.axes.begin() + static_cast<std::ptrdiff_t>(rows));
    result.shape.batch = rows;
  }
  return result;
}

Moved tiled(const Node& node, const Shape& x, const Known& known) {
  const auto repeats = numbers_in(node, known, 1, "");
  if (!repeats || repeats->size() != x.rank()) refuse(node, "its repeats are not one number per axis");
  Picks picks = all_of(x);
  for (std::size_t i = 0; i < repeats->size(); ++i) {
    const std::int64_t count = (*repeats)[i];
    if (count == 1) continue;
    std::vector<int>& axis = picks[column_axis(node, x, static_cast<std::int64_t>(i))];
    const auto times = count < 1 ? 0 : static_cast<std::size_t>(count);
    if (times == 0 || times > kMaxWidth / axis.size())
      refuse(node, "it makes an impossible number of columns");
    const std::vector<int> once = axis;
    for (std::size_t more = 1; more < times; ++more) axis.insert(axis.end(), once.begin(), once.end());
  }
  return picked_of(x, std::move(picks));
}

/// Which element lies at `at`, which may be outside of an axis of so many.
int padded_with(const Node& node, std::string_view mode, std::int64_t at, std::int64_t size) {
  if (at >= 0 && at < size) return static_cast<int>(at);
  if (mode == "constant") return kZero;
  if (mode == "edge") return static_cast<int>(std::clamp<std::int64_t>(at, 0, size - 1));
  if (mode == "wrap") return static_cast<int>((at % size + size) % size);
  if (mode != "reflect") refuse(node, "it does not know the mode " + std::string(mode));
  const std::int64_t mirrored = at < 0 ? -at : 2 * (size - 1) - at;
  if (mirrored < 0 || mirrored >= size) refuse(node, "it reflects more than there is");
  return static_cast<int>(mirrored);
}

Moved padded(const Node& node, const Shape& x, const Known& known) {
  constexpr std::int64_t kMost{kMaxWidth};
  const onnx::Attribute* found = node.attribute("mode");
  const std::string mode = found == nullptr ? "constant" : found->text;
  const auto pads = numbers_in(node, known, 1, "pads");
  if (!pads) refuse(node, "its pads are not constant");
  Numbers axes(x.rank());
  for (std::size_t i = 0; i < axes.size(); ++i) axes[i] = static_cast<std::int64_t>(i);
  axes = numbers_in(node, known, 3, "").value_or(axes);
  if (pads->size() != 2 * axes.size()) reject(node, "has not two pads per axis");
  if (node.inputs.size() > 2 && !node.inputs[2].empty()) {
    const Tensor* value = known(2);
    const bool is_zero =
        value != nullptr && std::ranges::all_of(value->reals, [](double v) { return v == 0; });
    if (!is_zero && mode == "constant") refuse(node, "it pads with other values than 0");
  }
  Picks picks(x.axes.size());
  for (std::size_t i = 0; i < axes.size(); ++i) {
    const std::int64_t before = (*pads)[i];
    const std::int64_t behind = (*pads)[axes.size() + i];
    if (before == 0 && behind == 0) continue;
    const std::size_t axis = column_axis(node, x, axes[i]);
    const auto size = static_cast<std::int64_t>(x.axes[axis].size);
    if (before > kMost || behind > kMost || before < -size || behind < -size) {
      refuse(node, "it pads or cuts more than it can");
    }
    picks[axis].clear();
    for (std::int64_t at = -before; at < size + behind; ++at) {
      picks[axis].push_back(padded_with(node, mode, at, size));
    }
    if (picks[axis].empty()) refuse(node, "it leaves nothing");
  }
  return picked_of(x, std::move(picks));
}

}  // namespace

std::vector<std::int64_t> axes_of(const Node& node, const Known& known, std::size_t index) {
  return numbers_in(node, known, index, "axes").value_or(Numbers());
}

std::optional<Moved> moved(const Node& node, const Shape& x, const Known& known) {
  using Move = Moved (*)(const Node&, const Shape&, const Known&);
  static const std::map<std::string_view, Move> kMoves = {
      {"Expand", expanded},      {"Flatten", flattened},    {"Gather", gathered},  {"Pad", padded},
      {"Reshape", reshaped},     {"Slice", sliced},         {"Squeeze", squeezed}, {"Tile", tiled},
      {"Transpose", transposed}, {"Unsqueeze", unsqueezed},
  };
  const auto found = kMoves.find(node.op_type);
  if (!node.domain.empty() || found == kMoves.end()) return std::nullopt;
  // These pick nothing.
  const bool renames = node.op_type == "Flatten" || node.op_type == "Reshape" || node.op_type == "Squeeze";
  if (x.rank() > kMostAxes && !renames) refuse(node, "its input has too many axes");
  return found->second(node, x, known);
}

std::vector<Moved> split_into_parts(const Node& node, const Shape& x, const Known& known) {
  if (x.rank() > kMostAxes) refuse(node, "its input has too many axes");
  const std::size_t axis = column_axis(node, x, node.integer_or("axis", 0));
  const std::size_t size = x.axes[axis].size;
  const std::size_t count = node.outputs.size();
  const Numbers sizes = numbers_in(node, known, 1, "split")
                            .value_or(Numbers(count, static_cast<std::int64_t>((size + count - 1) / count)));
  if (sizes.size() != count) refuse(node, "it has not one size per part");
  std::vector<Moved> parts;
  std::size_t start = 0;
  for (const std::int64_t wanted : sizes) {
    Picks picks(x.axes.size());
    for (std::int64_t taken = 0; taken < wanted && start < size; ++taken) {
      picks[axis].push_back(static_cast<int>(start++));
    }
    if (picks[axis].empty()) refuse(node, "one of its parts is empty");
    parts.push_back(picked_of(x, std::move(picks)));
  }
  return parts;
}

}  // namespace datasentinel::fused
