#pragma once

#include <algorithm>
#include <chrono>
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
  /// Requests that were answered together, each of which took the time of all.
  struct Answered {
    std::uint64_t requests = 1;
    std::uint64_t rows = 0;
    std::uint64_t anomalies = 0;
    std::uint64_t errors = 0;
    int code = 0;  ///< What all errors were, in the protocol's own code; 0: none, or several.
    double latency_s = 0;
    std::int64_t ended_ns = 0;  ///< Since the epoch; set by `add_together`.
  };

  struct Values {
    std::uint64_t requests = 0;
    std::uint64_t rows = 0;
    std::uint64_t anomalies = 0;
    std::map<int, std::uint64_t> errors;        ///< By the protocol's own code.
    std::vector<std::uint64_t> latency_counts;  ///< Requests per bucket, and those above the last bound.
    double latency_sum_s = 0;
    std::vector<Answered> traced;
  };

  /// `bounds_s` are the buckets' upper bounds, ascending.
  explicit RequestCounts(std::vector<double> bounds_s) : bounds_s_(std::move(bounds_s)) {
    values_.latency_counts.resize(bounds_s_.size() + 1);
  }

  /// From now on, keep what took at least so long, for a trace.
  void trace(double min_latency_s) noexcept {
    tracing_ = true;
    min_traced_s_ = min_latency_s;
  }

  /// One request; `code` is 0 for one that was answered.
  void add(std::uint64_t rows, std::uint64_t anomalies, int code, double latency_s) {
    add_together({.rows = rows,
                  .anomalies = anomalies,
                  .errors = code == 0 ? 0U : 1U,
                  .code = code,
                  .latency_s = latency_s});
  }

  /// Of several codes, `add_errors` counts each.
  void add_together(Answered answered) {
    values_.requests += answered.requests;
    values_.rows += answered.rows;
    values_.anomalies += answered.anomalies;
    if (answered.code != 0) add_errors(answered.code, answered.errors);
    const auto bound = std::lower_bound(bounds_s_.begin(), bounds_s_.end(), answered.latency_s);
    values_.latency_counts[static_cast<std::size_t>(bound - bounds_s_.begin())] += answered.requests;
    values_.latency_sum_s += static_cast<double>(answered.requests) * answered.latency_s;
    if (!tracing_ || answered.latency_s < min_traced_s_ || values_.traced.size() == kMaxTraced) return;
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    answered.ended_ns = std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
    values_.traced.push_back(answered);
  }

  void add_errors(int code, std::uint64_t count) { values_.errors[code] += count; }

  /// The counts since the last call.
  [[nodiscard]] Values take() {
    Values taken;
    taken.latency_counts.resize(values_.latency_counts.size());
    std::swap(taken, values_);
    return taken;
  }

 private:
  static constexpr std::size_t kMaxTraced = 4096;  ///< Between two visits; more are left out.

  std::vector<double> bounds_s_;
  Values values_;
  bool tracing_ = false;
  double min_traced_s_ = 0;
};

}  // namespace datasentinel
