#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace datasentinel {

/// Counts scores by interval, so that a server can tell how live scores are distributed.
///
/// Thread-safe. A batch costs one comparison per score and edge, and one atomic addition per interval hit.
class ScoreHistogram {
 public:
  /// Intervals are cut at `edges`, strictly ascending: (-inf, e0], (e0, e1], ..., (e_last, inf). Throws
  /// Error{invalid_argument} for edges out of order or more than `kMaxEdges` of them.
  explicit ScoreHistogram(std::vector<float> edges);

  void add(std::span<const float> scores) noexcept;

  /// How many scores fell into each interval, one more than there are edges.
  [[nodiscard]] std::vector<std::uint64_t> counts() const;

  static constexpr std::size_t kMaxEdges = 32;

 private:
  std::vector<float> edges_;
  std::unique_ptr<std::atomic<std::uint64_t>[]> counts_;
};

}  // namespace datasentinel
