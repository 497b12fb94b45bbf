#pragma once

#include <cstddef>
#include <optional>

namespace datasentinel {

/// A borrowed float32 matrix: `rows` x `columns`, row-major, no gaps between rows.
struct ConstRows {
  const float* data = nullptr;
  std::size_t rows = 0;
  std::size_t columns = 0;

  [[nodiscard]] const float* row(std::size_t index) const noexcept { return data + index * columns; }
  [[nodiscard]] std::size_t size() const noexcept { return rows * columns; }
};

/// Where a session writes its answers. A null pointer means "not asked for".
struct Outputs {
  float* scores = nullptr;           ///< One per row.
  float* reconstructions = nullptr;  ///< rows x columns, raw units.
  float* contributions = nullptr;    ///< rows x columns, each feature's part in the score; not negative.

  /// Where the answers to the rows from `first` on go.
  [[nodiscard]] Outputs from_row(std::size_t first, std::size_t columns) const noexcept {
    const auto from = [](float* target, std::size_t offset) {
      return target == nullptr ? nullptr : target + offset;
    };
    return {.scores = from(scores, first),
            .reconstructions = from(reconstructions, first * columns),
            .contributions = from(contributions, first * columns)};
  }
};

/// The states of the streams that rows belong to, one a row, before and after it.
struct States {
  const float* before = nullptr;
  float* after = nullptr;
};

/// A position in a matrix, counted from 0.
struct Cell {
  std::size_t row = 0;
  std::size_t column = 0;
};

/// The first NaN or infinity in `rows`, or nothing when every value is finite.
[[nodiscard]] std::optional<Cell> find_non_finite(ConstRows rows) noexcept;

/// scores[i] = mean over j of (input[i][j] - reconstruction[i][j])^2, accumulated in float64.
void mean_squared_error(ConstRows input, const float* reconstructions, float* scores) noexcept;

/// contributions[i][j] = (input[i][j] - reconstruction[i][j])^2 / columns: what each feature adds to
/// `mean_squared_error`. The outputs may not overlap the inputs.
void squared_error_contributions(ConstRows input, const float* reconstructions,
                                 float* contributions) noexcept;

}  // namespace datasentinel
