#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

namespace datasentinel {

/// Counts scores, or the values of a column, by interval, so that a server can tell how live ones are
/// distributed.
///
/// Thread-safe. A batch costs one comparison per value and edge, and one atomic addition per interval hit.
class IntervalCounts {
 public:
  /// Intervals are cut at `edges`, strictly ascending: (-inf, e0], (e0, e1], ..., (e_last, inf). Throws
  /// Error{invalid_argument}, which says that they are `of` what, for edges out of order or more than
  /// `kMaxEdges` of them.
  explicit IntervalCounts(std::vector<float> edges, std::string_view of = "scores");

  void add(std::span<const float> values) noexcept;
  void add(float value) noexcept;

  /// How many values fell into each interval, one more than there are edges.
  [[nodiscard]] std::vector<std::uint64_t> counts() const;

  static constexpr std::size_t kMaxEdges = 32;

 private:
  std::vector<float> edges_;
  std::unique_ptr<std::atomic<std::uint64_t>[]> counts_;
};

}  // namespace datasentinel
