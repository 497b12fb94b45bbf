#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace datasentinel::fused {

/// Worker threads that share the parts of one call at a time; the caller works too. Thread-safe: a second
/// caller waits for the first.
class ThreadPool {
 public:
  /// `workers` threads besides the caller's. For calls that come one after the other, all spin for so
  /// long before they sleep: waking up takes some ten microseconds.
  explicit ThreadPool(std::size_t workers, std::chrono::microseconds lookout = {});
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool();

  /// Calls `part(i)` once for each i < parts and returns when all are done. `part` must not throw.
  void run(std::size_t parts, const std::function<void(std::size_t)>& part);

 private:
  void work();
  template <typename Condition>
  void look_out(Condition condition) const;
  void take_parts(const std::function<void(std::size_t)>& part, std::size_t parts);

  std::mutex callers_;
  std::mutex mutex_;
  std::condition_variable started_;
  std::condition_variable finished_;
  const std::function<void(std::size_t)>* part_ = nullptr;
  std::size_t parts_ = 0;
  std::atomic<std::size_t> busy_{0};
  std::atomic<std::size_t> round_{0};
  std::atomic<bool> stopping_{false};
  std::chrono::microseconds lookout_;
  std::atomic<std::size_t> next_{0};
  std::vector<std::thread> threads_;
};

}  // namespace datasentinel::fused
