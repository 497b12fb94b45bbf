#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "core/tensor.h"

namespace datasentinel {

/// A few of the rows scored last, for people to look at: samples of the normal ones and of the anomalies.
///
/// Thread-safe. Scoring never waits: a row that comes while others are read or kept is passed over.
class RecentRows {
 public:
  using Clock = std::chrono::steady_clock;

  struct Row {
    std::int64_t time_ns = 0;  ///< Since the epoch, when it was scored; 0 for none yet.
    float score = 0;
    bool is_anomaly = false;
    std::vector<float> values;
  };

  /// Keeps at most `capacity` rows of either kind, no two of a kind closer than `interval`.
  RecentRows(std::size_t columns, std::chrono::nanoseconds interval, std::size_t capacity);

  /// Considers two rows of a batch just scored: any one, and the first of its `anomalies`, which are the rows
  /// for which `is_anomalous(i)` holds.
  template <typename IsAnomalous>
  void offer(ConstRows rows, const float* scores, std::size_t sampled_row, std::uint64_t anomalies,
             IsAnomalous is_anomalous, Clock::time_point now) noexcept {
    if (now >= normal_.due.load(std::memory_order_relaxed) && !is_anomalous(sampled_row)) {
      keep(normal_, rows, scores, sampled_row, false, now);
    }
    if (anomalies != 0 && now >= anomalous_.due.load(std::memory_order_relaxed)) {
      std::size_t first = 0;
      while (!is_anomalous(first)) ++first;
      keep(anomalous_, rows, scores, first, true, now);
    }
  }

  /// The rows kept that were scored later than that, in order.
  [[nodiscard]] std::vector<Row> after(std::int64_t time_ns) const;

 private:
  struct Kind {
    std::atomic<Clock::time_point> due{Clock::time_point::min()};
    std::vector<Row> ring;  ///< All memory is there from the start.
    std::size_t next = 0;
  };

  void keep(Kind& kind, ConstRows rows, const float* scores, std::size_t index, bool is_anomaly,
            Clock::time_point now) noexcept;

  std::chrono::nanoseconds interval_;
  mutable std::mutex mutex_;
  Kind normal_;
  Kind anomalous_;
};

}  // namespace datasentinel
