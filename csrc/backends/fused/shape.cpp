#include "backends/fused/shape.h"

#include <algorithm>
#include <numeric>

namespace datasentinel::fused {

Shape Shape::in_order(const std::vector<std::size_t>& sizes, std::size_t batch) {
  Shape shape{.axes = std::vector<Axis>(sizes.size()), .batch = batch};
  std::size_t stride = 1;
  for (std::size_t i = sizes.size(); i-- > 0;) {
    shape.axes[i] = {.size = sizes[i], .stride = stride};
    stride *= sizes[i];
  }
  return shape;
}

std::vector<std::size_t> Shape::sizes() const {
  std::vector<std::size_t> sizes(axes.size());
  std::ranges::transform(axes, sizes.begin(), &Axis::size);
  return sizes;
}

bool Shape::is_in_order() const {
  std::size_t stride = 1;
  for (std::size_t i = axes.size(); i-- > 0;) {
    if (axes[i].size != 1 && axes[i].stride != stride) return false;
    stride *= axes[i].size;
  }
  return true;
}

std::optional<std::size_t> Shape::find(std::int64_t axis) const noexcept {
  const auto count = static_cast<std::int64_t>(rank());
  if (axis < -count || axis >= count) return std::nullopt;
  const auto place = static_cast<std::size_t>(axis < 0 ? axis + count : axis);
  if (place == batch) return std::nullopt;
  return place > batch ? place - 1 : place;
}

std::vector<int> all_of(std::size_t size) {
  std::vector<int> all(size);
  std::iota(all.begin(), all.end(), 0);
  return all;
}

bool are_all_of(const std::vector<int>& columns, std::size_t size) {
  int next = 0;
  return columns.size() == size && std::ranges::all_of(columns, [&](int column) { return column == next++; });
}

Picks all_of(const Shape& shape) {
  Picks picks;
  picks.reserve(shape.axes.size());
  for (const Shape::Axis& axis : shape.axes) picks.push_back(all_of(axis.size));
  return picks;
}

std::vector<int> columns_of(const Shape& shape, const Picks& picks) {
  std::vector<int> columns{0};
  for (std::size_t i = 0; i < picks.size(); ++i) {
    std::vector<int> next;
    next.reserve(columns.size() * picks[i].size());
    for (const int column : columns) {
      for (const int pick : picks[i]) {
        const bool none = column == kZero || pick == kZero;
        next.push_back(none ? kZero : column + pick * static_cast<int>(shape.axes[i].stride));
      }
    }
    columns = std::move(next);
  }
  return columns;
}

std::optional<std::size_t> product_of(const std::vector<std::size_t>& sizes, std::size_t most) {
  std::size_t product = 1;
  for (const std::size_t size : sizes) {
    if (size != 0 && product > most / size) return std::nullopt;
    product *= size;
  }
  return product;
}

}  // namespace datasentinel::fused
