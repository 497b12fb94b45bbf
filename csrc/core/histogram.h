#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace datasentinel {

/// Counts values by size. Thread-safe; adding allocates nothing.
class Histogram {
 public:
  struct Values {
    std::vector<std::uint64_t> counts;  ///< Per bound, and those above the last one.
    double sum = 0;
  };

  /// `bounds` ascend; each is the largest value of its bucket.
  explicit Histogram(std::vector<double> bounds) : bounds_(std::move(bounds)), counts_(bounds_.size() + 1) {}

  void add(double value) noexcept {
    const auto bound = std::lower_bound(bounds_.begin(), bounds_.end(), value);
    counts_[static_cast<std::size_t>(bound - bounds_.begin())].fetch_add(1, std::memory_order_relaxed);
    sum_.fetch_add(value, std::memory_order_relaxed);
  }

  [[nodiscard]] const std::vector<double>& bounds() const noexcept { return bounds_; }
  [[nodiscard]] Values values() const {
    Values values{.counts = std::vector<std::uint64_t>(counts_.size()),
                  .sum = sum_.load(std::memory_order_relaxed)};
    for (std::size_t i = 0; i < counts_.size(); ++i) {
      values.counts[i] = counts_[i].load(std::memory_order_relaxed);
    }
    return values;
  }

 private:
  std::vector<double> bounds_;
  std::vector<std::atomic<std::uint64_t>> counts_;
  std::atomic<double> sum_{0};
};

/// What a server wants to know about a model at work.
struct ScoringHistograms {
  ScoringHistograms();

  Histogram batch_rows;
  Histogram compute_s;  ///< Of one batch.
};

}  // namespace datasentinel
