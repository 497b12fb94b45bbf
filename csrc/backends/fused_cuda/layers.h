#pragma once

#include <cstddef>
#include <vector>

#include "backends/fused/program.h"

namespace datasentinel::fused_cuda {

inline constexpr std::size_t kWarp = 32;

/// How many parts of that size hold so many.
[[nodiscard]] constexpr std::size_t parts_of(std::size_t number, std::size_t part) noexcept {
  return (number + part - 1) / part;
}

[[nodiscard]] constexpr std::size_t padded(std::size_t number, std::size_t multiple) noexcept {
  return parts_of(number, multiple) * multiple;
}

/// A layer's bias, with zeros where it has none and up to `columns`.
[[nodiscard]] inline std::vector<double> bias_of(const fused::Dense& layer, std::size_t columns) {
  std::vector<double> bias = layer.bias;
  bias.resize(columns, 0.0);
  return bias;
}

}  // namespace datasentinel::fused_cuda
