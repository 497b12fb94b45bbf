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

/// Statements that write a value. Scores are always finite, as the core's are: one that overflowed stays
/// above every threshold; and those above the highest normal one are counted.
[[nodiscard]] inline std::string stored(const std::string& target, const std::string& place,
                                        const std::string& value) {
  const std::string to = target + "[" + place + "] = ";
  if (target != "scores") return to + value + ";";
  return "const float score = made_finite(" + value + "); " + to + "score; above += score > highest_normal;";
}

/// What a kernel ends with: each thread reports its `above`.
inline constexpr const char* kTelling = "  tell(above, THREADS, anomalies);\n";

}  // namespace datasentinel::fused_cuda
