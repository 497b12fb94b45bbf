#include "backends/fused/thread_pool.h"

#include <system_error>

namespace datasentinel::fused {

ThreadPool::ThreadPool(std::size_t workers, std::chrono::microseconds lookout) : lookout_(lookout) {
  threads_.reserve(workers);
  try {
    for (std::size_t i = 0; i < workers; ++i) threads_.emplace_back([this] { work(); });
  } catch (const std::system_error&) {
    return;  // The system grants no more threads: the ones there are share the work with the caller.
  }
}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  started_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::run(std::size_t parts, const std::function<void(std::size_t)>& part) {
  const std::lock_guard caller(callers_);
  {
    const std::lock_guard lock(mutex_);
    part_ = &part;
    parts_ = parts;
    busy_.store(threads_.size());
    next_.store(0, std::memory_order_relaxed);
    ++round_;
  }
  started_.notify_all();
  take_parts(part, parts);
  look_out([this] { return busy_ == 0; });
  std::unique_lock lock(mutex_);
  finished_.wait(lock, [this] { return busy_ == 0; });
}

/// Until the condition holds, or for as long as is worth it.
template <typename Condition>
void ThreadPool::look_out(Condition condition) const {
  if (lookout_.count() == 0) return;
  const auto end = std::chrono::steady_clock::now() + lookout_;
  while (!condition() && std::chrono::steady_clock::now() < end) std::this_thread::yield();
}

void ThreadPool::work() {
  std::size_t seen = 0;
  while (true) {
    look_out([&] { return stopping_ || round_ != seen; });
    std::unique_lock lock(mutex_);
    started_.wait(lock, [&] { return stopping_ || round_ != seen; });
    if (stopping_) return;
    seen = round_;
    const auto* part = part_;
    const std::size_t parts = parts_;
    lock.unlock();
    take_parts(*part, parts);
    lock.lock();
    if (--busy_ == 0) finished_.notify_one();
  }
}

void ThreadPool::take_parts(const std::function<void(std::size_t)>& part, std::size_t parts) {
  for (std::size_t i = next_.fetch_add(1); i < parts; i = next_.fetch_add(1)) part(i);
}

}  // namespace datasentinel::fused
