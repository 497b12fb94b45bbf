#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace datasentinel {

/// Counts the values of each column by interval.
///
/// Thread-safe.
class FeatureHistograms {
 public:
  /// One list of edges a column, strictly ascending, that cuts it as `ScoreHistogram` cuts scores. Throws
  /// Error{invalid_argument} for edges out of order, more than `kMaxEdges` of them, or more than
  /// `kMaxColumns` columns.
  explicit FeatureHistograms(std::vector<std::vector<float>> edges);

  [[nodiscard]] std::size_t columns() const noexcept { return edges_.size(); }

  /// Counts the values of one row, of which there are `columns()`.
  void add(const float* row) noexcept;

  /// How many values of each column fell into each interval.
  [[nodiscard]] std::vector<std::vector<std::uint64_t>> counts() const;

  static constexpr std::size_t kMaxEdges = 32;
  static constexpr std::size_t kMaxColumns = 256;

 private:
  std::vector<std::vector<float>> edges_;
  std::vector<std::size_t> offsets_;  ///< Where a column's counts begin.
  std::unique_ptr<std::atomic<std::uint64_t>[]> counts_;
};

}  // namespace datasentinel
