#pragma once

#include <vector>

#include "roof/probes.h"

namespace datasentinel::roof {

inline constexpr Probes kPortableProbes = {.isa = "portable",
                                           .supported = true,
                                           .flops_per_round = flops_per_round(4),
                                           .multiply_add = multiply_add_portable,
                                           .read = read_portable};

/// The instruction sets that this build contains, the most capable first; the last one always runs.
/// probe_sets_<processor>.cpp, or probe_sets_generic.cpp.
[[nodiscard]] std::vector<Probes> probe_sets();

}  // namespace datasentinel::roof
