#pragma once

#include <cstddef>
#include <optional>
#include <vector>

#include "serving/batch_scorer.h"

namespace datasentinel {

/// One feature's part in the score of a row.
struct Reason {
  std::size_t column = 0;
  float contribution = 0;         ///< Not negative.
  float value = 0;                ///< What was observed, in raw units.
  std::optional<float> expected;  ///< What the model would have expected; none where it does not reconstruct.
};

/// The `top` greatest contributions to the score of a task's row, greatest first; equal ones in the order of
/// the columns. The task's contributions must have been scored.
[[nodiscard]] std::vector<Reason> rank_reasons(const ScoringTask& task, std::size_t row, std::size_t top);

}  // namespace datasentinel
