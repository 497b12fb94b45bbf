#pragma once

#include <cstddef>

#include "backends/fused/links.h"
#include "backends/fused/program.h"

namespace datasentinel::fused {

/// `program` in an order in which few values live at a time. What takes all columns of a layer's result in
/// any order (its smallest, say) is right behind the layer, and does itself the scaling that was between
/// them.
[[nodiscard]] Program in_order(Program program);

/// How many steps behind the one at `position` are its result's only readers, and take its columns in any
/// order; 0 where there are others.
[[nodiscard]] std::size_t takers(const Program& program, const Links& links, std::size_t position);

}  // namespace datasentinel::fused
