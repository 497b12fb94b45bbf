#include "core/interval_counts.h"

#include <array>
#include <string>
#include <utility>

#include "core/error.h"

namespace datasentinel {

IntervalCounts::IntervalCounts(std::vector<float> edges, std::string_view of)
    : edges_(std::move(edges)), counts_(std::make_unique<std::atomic<std::uint64_t>[]>(edges_.size() + 1)) {
  const std::string histogram = "a histogram of " + std::string(of);
  if (edges_.size() > kMaxEdges) {
    throw Error(ErrorCode::invalid_argument,
                histogram + " takes at most " + std::to_string(kMaxEdges) + " edges");
  }
  for (std::size_t i = 1; i < edges_.size(); ++i) {
    if (!(edges_[i] > edges_[i - 1])) {
      throw Error(ErrorCode::invalid_argument, "the edges of " + histogram + " must be ascending");
    }
  }
}

void IntervalCounts::add(std::span<const float> values) noexcept {
  // Counting edge by edge is a plain loop over the values, which the compiler turns into vector code.
  std::array<std::uint64_t, kMaxEdges + 2> above{};
  above[0] = values.size();
  for (std::size_t e = 0; e < edges_.size(); ++e) {
    std::uint32_t count = 0;
    for (const float value : values) count += static_cast<std::uint32_t>(value > edges_[e]);
    above[e + 1] = count;
  }
  for (std::size_t i = 0; i <= edges_.size(); ++i) {
    const std::uint64_t count = above[i] - above[i + 1];
    if (count != 0) counts_[i].fetch_add(count, std::memory_order_relaxed);
  }
}

void IntervalCounts::add(float value) noexcept {
  // Without a branch: a binary search would be mispredicted at every other step.
  std::uint32_t interval = 0;
  for (const float edge : edges_) interval += static_cast<std::uint32_t>(value > edge);
  counts_[interval].fetch_add(1, std::memory_order_relaxed);
}

std::vector<std::uint64_t> IntervalCounts::counts() const {
  std::vector<std::uint64_t> result(edges_.size() + 1);
  for (std::size_t i = 0; i < result.size(); ++i) result[i] = counts_[i].load(std::memory_order_relaxed);
  return result;
}

}  // namespace datasentinel
