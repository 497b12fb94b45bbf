#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>

namespace datasentinel {

// Batches are padded to sizes for which something is kept: powers of two, the last of which is cut down to
// the largest batch.

/// The binary logarithm of the size that `rows`, at least one, are padded to.
[[nodiscard]] constexpr std::size_t bucket_of(std::size_t rows) noexcept {
  return static_cast<std::size_t>(std::bit_width(rows - 1));
}

[[nodiscard]] constexpr std::size_t rows_of_bucket(std::size_t bucket, std::size_t max_rows) noexcept {
  return std::min(std::size_t{1} << bucket, max_rows);
}

}  // namespace datasentinel
