#pragma once

#include <algorithm>
#include <limits>

namespace datasentinel {

/// How far a score is beyond the threshold: score / threshold, so that an anomaly is above 1. Beyond
/// float32's range it is the largest float32; not a number only for a score and a threshold of 0.
[[nodiscard]] inline float severity(float score, double threshold) noexcept {
  constexpr double largest = std::numeric_limits<float>::max();
  return static_cast<float>(std::clamp(static_cast<double>(score) / threshold, -largest, largest));
}

}  // namespace datasentinel
