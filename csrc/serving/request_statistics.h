#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

namespace datasentinel {

/// What became of the requests to one model, over all protocols. Thread-safe.
class RequestStatistics {
 public:
  struct Values {
    std::uint64_t successes = 0;
    std::uint64_t success_ns = 0;  ///< Time of all successes together, from the decoded bytes to the answer.
    std::uint64_t queue_ns = 0;    ///< The part of it that they waited in a queue.
    std::uint64_t failures = 0;
    std::uint64_t failure_ns = 0;
    std::int64_t last_ms = 0;  ///< When the last one was answered, in milliseconds since the epoch; 0: never.
  };

  void add(bool success, std::chrono::nanoseconds took, std::chrono::nanoseconds waited = {}) noexcept {
    const auto ns = static_cast<std::uint64_t>(took.count());
    (success ? successes_ : failures_).fetch_add(1, std::memory_order_relaxed);
    (success ? success_ns_ : failure_ns_).fetch_add(ns, std::memory_order_relaxed);
    if (success && waited.count() != 0) {
      queue_ns_.fetch_add(static_cast<std::uint64_t>(waited.count()), std::memory_order_relaxed);
    }
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    last_ms_.store(std::chrono::duration_cast<std::chrono::milliseconds>(now).count(),
                   std::memory_order_relaxed);
  }

  [[nodiscard]] Values values() const noexcept {
    return {.successes = successes_.load(std::memory_order_relaxed),
            .success_ns = success_ns_.load(std::memory_order_relaxed),
            .queue_ns = queue_ns_.load(std::memory_order_relaxed),
            .failures = failures_.load(std::memory_order_relaxed),
            .failure_ns = failure_ns_.load(std::memory_order_relaxed),
            .last_ms = last_ms_.load(std::memory_order_relaxed)};
  }

 private:
  std::atomic<std::uint64_t> successes_{0};
  std::atomic<std::uint64_t> success_ns_{0};
  std::atomic<std::uint64_t> queue_ns_{0};
  std::atomic<std::uint64_t> failures_{0};
  std::atomic<std::uint64_t> failure_ns_{0};
  std::atomic<std::int64_t> last_ms_{0};
};

}  // namespace datasentinel
