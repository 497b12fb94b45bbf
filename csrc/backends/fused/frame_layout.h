#pragma once

#include <functional>
#include <vector>

#include "backends/fused/kernel_api.h"
#include "backends/fused/program.h"

namespace datasentinel::fused {

/// Columns in the widest vector of any instruction set.
inline constexpr int kWidestVector = 16;

/// Where every value of a program lies in the frame. Values that are never needed at the same time share
/// columns, so that the frame stays small enough for the first cache levels.
struct FrameLayout {
  std::vector<int> offsets;  ///< Per value, a multiple of kWidestVector but for ranges that are not copied.
  int columns = 0;           ///< A multiple of kWidestVector.
  int output_columns = 0;    ///< Of these, the first ones that the score and the output need.
};

/// Without `copies_ranges`, neighbouring columns that a step picks out of a value lie in that value, and the
/// step has nothing to do; and a layer's takers may take its results in parts, so that what it reads and
/// makes stays until the last of them is done. Results of steps that `overwrites` is true for may lie where
/// the step's operands do.
[[nodiscard]] FrameLayout lay_out(const Program& program, bool copies_ranges,
                                  const std::function<bool(const Instruction&)>& overwrites = {});

}  // namespace datasentinel::fused
