#pragma once

#include <vector>

#include "roof/probes.h"

namespace datasentinel::roof {

/// The instruction sets that this build contains, the most capable first; the last one always runs.
/// probe_sets_<processor>.cpp, or probe_sets_generic.cpp.
[[nodiscard]] std::vector<Probes> probe_sets();

}  // namespace datasentinel::roof
