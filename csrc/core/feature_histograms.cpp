#include "core/feature_histograms.h"

#include <string>
#include <utility>

#include "core/error.h"

namespace datasentinel {

FeatureHistograms::FeatureHistograms(std::vector<std::vector<float>> edges) : edges_(std::move(edges)) {
  if (edges_.size() > kMaxColumns) {
    throw Error(ErrorCode::invalid_argument,
                "histograms of features take at most " + std::to_string(kMaxColumns) + " columns");
  }
  std::size_t size = 0;
  for (std::size_t column = 0; column < edges_.size(); ++column) {
    const std::vector<float>& cuts = edges_[column];
    const std::string where = "the histogram of column " + std::to_string(column);
    if (cuts.size() > kMaxEdges) {
      throw Error(ErrorCode::invalid_argument,
                  where + " takes at most " + std::to_string(kMaxEdges) + " edges");
    }
    for (std::size_t i = 1; i < cuts.size(); ++i) {
      if (!(cuts[i] > cuts[i - 1])) {
        throw Error(ErrorCode::invalid_argument, where + ": the edges must be ascending");
      }
    }
    offsets_.push_back(size);
    size += cuts.size() + 1;
  }
  counts_ = std::make_unique<std::atomic<std::uint64_t>[]>(size);
}

void FeatureHistograms::add(const float* row) noexcept {
  for (std::size_t column = 0; column < edges_.size(); ++column) {
    // Without a branch: a binary search would be mispredicted at every other step.
    std::uint32_t bin = 0;
    for (const float edge : edges_[column]) bin += static_cast<std::uint32_t>(row[column] > edge);
    counts_[offsets_[column] + bin].fetch_add(1, std::memory_order_relaxed);
  }
}

std::vector<std::vector<std::uint64_t>> FeatureHistograms::counts() const {
  std::vector<std::vector<std::uint64_t>> result;
  result.reserve(edges_.size());
  for (std::size_t column = 0; column < edges_.size(); ++column) {
    std::vector<std::uint64_t>& bins = result.emplace_back(edges_[column].size() + 1);
    for (std::size_t i = 0; i < bins.size(); ++i) {
      bins[i] = counts_[offsets_[column] + i].load(std::memory_order_relaxed);
    }
  }
  return result;
}

}  // namespace datasentinel
