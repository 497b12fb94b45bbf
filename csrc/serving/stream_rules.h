#pragma once

#include <cmath>
#include <cstddef>
#include <limits>
#include <optional>
#include <vector>

#include "core/tensor.h"

namespace datasentinel {

/// What a model with memory does about values that are missing (NaN): those of the stream's last row are
/// carried, and how long they have been is remembered.
struct CarryRule {
  /// By column, the value that a stream has before its first; NaN for a column that must have its own in
  /// every row. Empty for a model that takes whole rows only.
  std::vector<float> first;
  /// A column that has been carried for more rows than that is stale.
  std::size_t stale_rows = 0;

  [[nodiscard]] bool carries() const noexcept { return !first.empty(); }
  /// What is kept of a stream for it: of each column the last value, then the rows since there was one.
  [[nodiscard]] std::size_t size() const noexcept { return 2 * first.size(); }

  /// What is kept of a stream that has had no rows, in `size()` floats.
  void begin(float* carried) const noexcept {
    for (const float value : first) *carried++ = value;
    for (std::size_t column = 0; column < first.size(); ++column) *carried++ = 0.0F;
  }

  [[nodiscard]] bool is_stale(const float* carried, std::size_t column) const noexcept {
    return carried[first.size() + column] > static_cast<float>(stale_rows);
  }
  /// Whether any column is.
  [[nodiscard]] bool is_stale(const float* carried) const noexcept {
    for (std::size_t column = 0; column < first.size(); ++column) {
      if (is_stale(carried, column)) return true;
    }
    return false;
  }

  /// The first value that can be neither scored nor carried.
  [[nodiscard]] std::optional<Cell> find_unusable(ConstRows rows) const noexcept {
    for (std::size_t row = 0; row < rows.rows; ++row) {
      for (std::size_t column = 0; column < rows.columns; ++column) {
        const float value = rows.row(row)[column];
        if (std::isinf(value) || (std::isnan(value) && std::isnan(first[column]))) return Cell{row, column};
      }
    }
    return std::nullopt;
  }
};

/// How a version of a model keeps its streams. They go on by other rules when another version of the same
/// graph follows.
struct StreamRules {
  /// Streams that have seen no more are warming.
  std::size_t warm_up_rows = 0;
  /// One that has seen nothing for longer than that begins anew.
  double gap_s = std::numeric_limits<double>::infinity();
  /// Of a model whose averages fade with time: seconds of the usual step from row to row. The last value but
  /// one of a state then says by how many usual steps more its next row is later; 0 for any other model.
  double row_s = 0;
  CarryRule carry = {};
};

}  // namespace datasentinel
