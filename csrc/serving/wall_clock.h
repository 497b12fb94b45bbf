#pragma once

#include <vector>

namespace datasentinel {

/// What a clock on the wall of a time zone says.
class WallClock {
 public:
  /// From `starts_s[i]` on, in seconds since 1970, the clock is `offsets_s[i]` ahead of UTC; the first offset
  /// also holds before. Throws Error{invalid_argument} for starts that do not ascend or other lengths.
  WallClock(std::vector<double> starts_s, std::vector<double> offsets_s);

  /// Seconds since Monday 00:00 on this clock, to the microsecond, of a finite time since 1970.
  [[nodiscard]] float second_of_week(double time_s) const noexcept;

 private:
  std::vector<double> starts_s_;
  std::vector<double> offsets_s_;
};

}  // namespace datasentinel
