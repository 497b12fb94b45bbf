#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

namespace datasentinel::fused {

/// How the columns of each row make up a tensor: its axes without that of the rows, each with its size and by
/// how many columns its neighbours are apart. Every column is one element.
struct Shape {
  struct Axis {
    std::size_t size = 1;
    std::size_t stride = 1;
    friend bool operator==(const Axis&, const Axis&) = default;
  };
  /// Of constants, which have no axis of rows.
  static constexpr std::size_t kNoBatch = std::numeric_limits<std::size_t>::max();

  std::vector<Axis> axes;
  std::size_t batch = 0;  ///< The place of the rows' axis among the others.

  /// The last axis first, as ONNX lays tensors out.
  [[nodiscard]] static Shape in_order(const std::vector<std::size_t>& sizes, std::size_t batch = 0);
  [[nodiscard]] static Shape matrix(std::size_t columns) { return in_order({columns}); }
  [[nodiscard]] static Shape vector() { return in_order({}); }

  [[nodiscard]] std::size_t rank() const noexcept { return axes.size() + (batch == kNoBatch ? 0 : 1); }
  [[nodiscard]] std::vector<std::size_t> sizes() const;
  [[nodiscard]] bool is_matrix() const noexcept { return batch == 0 && axes.size() == 1; }
  [[nodiscard]] bool is_in_order() const;
  /// Which of the axes ONNX's `axis` is, counted from the end where it is negative; none if it is that of the
  /// rows or there is no such axis.
  [[nodiscard]] std::optional<std::size_t> find(std::int64_t axis) const noexcept;
  /// The place in ONNX's count of the axis at `index`.
  [[nodiscard]] std::size_t place(std::size_t index) const noexcept {
    return index + (index >= batch ? 1 : 0);
  }

  friend bool operator==(const Shape&, const Shape&) = default;
};

/// By axis, which of its elements; kZero is none of them, but zero.
using Picks = std::vector<std::vector<int>>;
inline constexpr int kZero = -1;

[[nodiscard]] std::vector<int> all_of(std::size_t size);
[[nodiscard]] bool are_all_of(const std::vector<int>& columns, std::size_t size);
/// All elements of every axis.
[[nodiscard]] Picks all_of(const Shape& shape);

/// The columns of what is picked, the last axis first.
[[nodiscard]] std::vector<int> columns_of(const Shape& shape, const Picks& picks);

/// The product, or nothing beyond `most`.
[[nodiscard]] std::optional<std::size_t> product_of(const std::vector<std::size_t>& sizes, std::size_t most);

}  // namespace datasentinel::fused
