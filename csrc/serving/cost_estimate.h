#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstddef>

namespace datasentinel {

/// A running estimate of how long a model takes, by number of rows. Thread-safe.
class CostEstimate {
 public:
  /// Nothing is known before the first `add`; then sizes not seen yet follow from the next smaller one, whose
  /// time per row is seldom exceeded.
  [[nodiscard]] double expected_us(std::size_t rows) const noexcept {
    for (std::size_t bucket = bucket_of(rows) + 1; bucket-- > 0;) {
      const float measured = per_row_us_[bucket].load(std::memory_order_relaxed);
      if (measured > 0) return static_cast<double>(measured) * static_cast<double>(rows);
    }
    return 0;
  }

  void add(std::size_t rows, double took_us) noexcept {
    if (rows == 0) return;
    auto& estimate = per_row_us_[bucket_of(rows)];
    const auto measured = static_cast<float>(took_us / static_cast<double>(rows));
    const float before = estimate.load(std::memory_order_relaxed);
    // A call that was interrupted counts as twice the usual at most.
    const float after = before > 0 ? before + (std::min(measured, 2 * before) - before) / 8 : measured;
    estimate.store(std::max(after, 1e-6F), std::memory_order_relaxed);
  }

 private:
  static constexpr std::size_t kBuckets = 24;

  static std::size_t bucket_of(std::size_t rows) noexcept {
    return std::min<std::size_t>(static_cast<std::size_t>(std::bit_width(rows)), kBuckets - 1);
  }

  std::array<std::atomic<float>, kBuckets> per_row_us_{};
};

}  // namespace datasentinel
