#pragma once

#include <algorithm>
#include <limits>

namespace datasentinel {

/// Whether a score can be measured by the threshold: only where that is above 0.
[[nodiscard]] constexpr bool has_severity(double threshold) noexcept { return threshold > 0; }

/// How far a score is beyond the threshold, which `has_severity`: score / threshold, above 1 for an anomaly
/// and for no other, whatever the rounding. Beyond float32's range it is the largest float32.
[[nodiscard]] inline float severity(float score, double threshold) noexcept {
  constexpr double largest = std::numeric_limits<float>::max();
  constexpr float above_one = 1 + std::numeric_limits<float>::epsilon();
  const double wide = static_cast<double>(score);
  const auto ratio = static_cast<float>(std::clamp(wide / threshold, -largest, largest));
  return wide > threshold ? std::max(ratio, above_one) : std::min(ratio, 1.0F);
}

}  // namespace datasentinel
