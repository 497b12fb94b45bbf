#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "backends/fused/program.h"

namespace datasentinel::fused_cuda {

/// The head of an entry point of which a multiprocessor is to hold `at_a_time` blocks, which form clusters of
/// `blocks`.
[[nodiscard]] std::string signature(const std::string& name, int threads, int at_a_time = 1, int blocks = 1);

[[nodiscard]] inline std::size_t width_of(const fused::Program& program, int value) {
  return program.widths[static_cast<std::size_t>(value)];
}

/// The first steps of a program: those of the score.
[[nodiscard]] fused::Program score_of(fused::Program program);

[[nodiscard]] inline bool has_more_than_scores(const fused::Program& program) noexcept {
  return program.output >= 0 || program.contributions >= 0;
}

/// Scores are always finite, as the core's are: one that overflowed stays above every threshold.
[[nodiscard]] inline std::string written(std::string_view target, const std::string& value) {
  return target == "scores" ? "made_finite(" + value + ")" : value;
}

}  // namespace datasentinel::fused_cuda
