#include "serving/wall_clock.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <utility>

#include "core/error.h"

namespace datasentinel {

WallClock::WallClock(std::vector<double> starts_s, std::vector<double> offsets_s)
    : starts_s_(std::move(starts_s)), offsets_s_(std::move(offsets_s)) {
  if (starts_s_.empty() || starts_s_.size() != offsets_s_.size() ||
      std::ranges::adjacent_find(starts_s_, std::greater_equal()) != starts_s_.end()) {
    throw Error(ErrorCode::invalid_argument,
                "a clock needs ascending times, and an offset from UTC for each");
  }
}

float WallClock::second_of_week(double time_s) const noexcept {
  constexpr std::int64_t kSecond = 1'000'000;
  constexpr std::int64_t kDay = 86'400 * kSecond;
  constexpr std::int64_t kWeek = 7 * kDay;
  constexpr std::int64_t kThursday = 3 * kDay;  // 1970 began on one.
  const auto next = std::ranges::upper_bound(starts_s_, time_s);
  const auto at = std::max<std::ptrdiff_t>(0, next - starts_s_.begin() - 1);
  const std::int64_t utc = std::llrint(time_s * kSecond);
  const std::int64_t local = utc + std::llrint(offsets_s_[static_cast<std::size_t>(at)] * kSecond);
  const std::int64_t of_week = ((local + kThursday) % kWeek + kWeek) % kWeek;
  return static_cast<float>(static_cast<double>(of_week) / kSecond);
}

}  // namespace datasentinel
