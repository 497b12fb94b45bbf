#pragma once

#include <cstddef>
#include <vector>

#include "backends/fused/program.h"

namespace datasentinel::fused {

/// Whether it is worth more than moving its inputs to where it would be fast.
[[nodiscard]] constexpr bool is_wide(const Dense& layer) noexcept {
  constexpr std::size_t kLeastInputs = 16;
  constexpr std::size_t kLeastOutputs = 8;
  return layer.windows == 1 && layer.inputs >= kLeastInputs && layer.outputs >= kLeastOutputs;
}

/// By value: whether it is a layer of a network, as in an artifact of lower precision: a product next to an
/// activation, and wide enough. Distances and projections cancel, and are none.
[[nodiscard]] std::vector<bool> network_layers(const Program& program);

}  // namespace datasentinel::fused
