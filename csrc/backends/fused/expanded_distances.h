#pragma once

#include <cstddef>
#include <optional>
#include <vector>

#include "backends/fused/links.h"
#include "backends/fused/program.h"

namespace datasentinel::fused {

/// What a layer on [z, |z|^2] computes: gain_p |z - c_p|^2, out of |z|^2 - 2 z c_p + |c_p|^2. Next to c_p
/// float32 leaves little of that, so squares below kNearShare gain_p |z|^2 are computed again from the
/// differences, each for itself: a row's answers do not depend on the rows beside it.
struct ExpandedDistances {
  std::size_t width = 0;        ///< Of z.
  std::vector<double> centres;  ///< [output][width]
  std::vector<double> gains;    ///< [output], positive
};

/// The distances that the step at `position` computes, by its constants; nothing where it computes others.
[[nodiscard]] std::optional<ExpandedDistances> expanded_distances(const Program& program, const Links& links,
                                                                  std::size_t position);

}  // namespace datasentinel::fused
