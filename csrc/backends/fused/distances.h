#pragma once

#include "backends/fused/program.h"

namespace datasentinel::fused {

/// `program` with each sum of squared differences, (z_0 - c_0)^2 + (z_1 - c_1)^2 + ..., of columns z_k of one
/// value and constants c_k of many points as one step, unless something else reads a part of it. What that
/// leaves without a reader stays, and steps may come before what they need: `in_order` drops
/// the former and moves the latter.
[[nodiscard]] Program with_distances(Program program);

}  // namespace datasentinel::fused
