#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

namespace datasentinel {

/// What the requests of one protocol came to, between two visits of the metrics.
///
/// One thread at a time.
class RequestCounts {
 public:
  struct Values {
    std::uint64_t requests = 0;
    std::uint64_t rows = 0;
    std::uint64_t anomalies = 0;
    std::map<int, std::uint64_t> errors;        ///< By the protocol's own code.
    std::vector<std::uint64_t> latency_counts;  ///< Requests per bucket, and those above the last bound.
    double latency_sum_s = 0;
  };

  /// `bounds_s` are the buckets' upper bounds, ascending.
  explicit RequestCounts(std::vector<double> bounds_s) : bounds_s_(std::move(bounds_s)) {
    values_.latency_counts.resize(bounds_s_.size() + 1);
  }

  /// `code` is 0 for a request that was answered.
  void add(std::uint64_t rows, std::uint64_t anomalies, int code, double latency_s) {
    ++values_.requests;
    values_.rows += rows;
    values_.anomalies += anomalies;
    if (code != 0) ++values_.errors[code];
    const auto bucket = std::lower_bound(bounds_s_.begin(), bounds_s_.end(), latency_s) - bounds_s_.begin();
    ++values_.latency_counts[static_cast<std::size_t>(bucket)];
    values_.latency_sum_s += latency_s;
  }

  /// The counts since the last call.
  [[nodiscard]] Values take() {
    Values taken;
    taken.latency_counts.resize(values_.latency_counts.size());
    std::swap(taken, values_);
    return taken;
  }

 private:
  std::vector<double> bounds_s_;
  Values values_;
};

}  // namespace datasentinel
