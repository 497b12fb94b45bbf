#pragma once

#include <chrono>

namespace datasentinel {

/// A connection's turn on the event loop: so long it may decode and score before others are served.
class Turn {
 public:
  using Clock = std::chrono::steady_clock;

  /// With what is scored at the end of it, a turn comes to about a millisecond.
  static constexpr std::chrono::microseconds kLength{500};

  explicit Turn(std::chrono::microseconds length = kLength) noexcept
      : started_(Clock::now()), end_(started_ + length) {}

  [[nodiscard]] Clock::time_point started() const noexcept { return started_; }

  [[nodiscard]] bool over() const noexcept { return Clock::now() >= end_; }

 private:
  Clock::time_point started_;
  Clock::time_point end_;
};

}  // namespace datasentinel
