#pragma once

#include <atomic>
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
  /// `workers` threads besides the caller's.
  explicit ThreadPool(std::size_t workers);
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool();

  /// Calls `part(i)` once for each i < parts and returns when all are done. `part` must not throw.
  void run(std::size_t parts, const std::function<void(std::size_t)>& part);

 private:
  void work();
  void take_parts(const std::function<void(std::size_t)>& part, std::size_t parts);

  std::mutex callers_;
  std::mutex mutex_;
  std::condition_variable started_;
  std::condition_variable finished_;
  const std::function<void(std::size_t)>* part_ = nullptr;
  std::size_t parts_ = 0;
  std::size_t busy_ = 0;
  std::size_t round_ = 0;
  bool stopping_ = false;
  std::atomic<std::size_t> next_{0};
  std::vector<std::thread> threads_;
};

}  // namespace datasentinel::fused
