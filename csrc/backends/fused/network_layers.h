#pragma once

#include <vector>

#include "backends/fused/program.h"

namespace datasentinel::fused {

/// By value: whether it is a layer of a network, as in an artifact of lower precision: a product next to an
/// activation, and wide enough. Distances and projections cancel, and are none.
[[nodiscard]] std::vector<bool> network_layers(const Program& program);

}  // namespace datasentinel::fused
