#include "serving/batch_queue.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "core/error.h"

namespace datasentinel {

BatchQueue::BatchQueue(QueueLimits limits, std::function<void()> wake)
    : limits_(limits),
      wake_(std::move(wake)),
      waits_s_({1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25,
                0.5, 1, 2.5}) {
  if (limits_.max_rows == 0 || limits_.max_batch_rows == 0 || limits_.threads == 0) {
    throw Error(ErrorCode::invalid_argument, "the queue's rows, batch rows and threads must be at least 1");
  }
  for (std::size_t i = 0; i < limits_.threads; ++i) workers_.emplace_back([this] { work(); });
}

BatchQueue::~BatchQueue() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  workers_.clear();
}

bool BatchQueue::submit(std::unique_ptr<ScoringJob>& job) {
  {
    const std::lock_guard lock(mutex_);
    const std::size_t depth = waiting_rows_ + running_rows_;
    // An idle queue takes a job of any size; otherwise a large one would never get in.
    if (depth != 0 && depth + job->task.rows > limits_.max_rows) return false;
    job->submitted = std::chrono::steady_clock::now();
    waiting_rows_ += job->task.rows;
    waiting_[job->connection].push_back(std::move(job));
  }
  changed_.notify_one();
  return true;
}

std::vector<std::unique_ptr<ScoringJob>> BatchQueue::collect() {
  const std::lock_guard lock(mutex_);
  return std::exchange(finished_, {});
}

std::size_t BatchQueue::depth_rows() const {
  const std::lock_guard lock(mutex_);
  return waiting_rows_ + running_rows_;
}

void BatchQueue::work() {
  BatchScorer scorer;
  std::vector<std::unique_ptr<ScoringJob>> batch;
  std::vector<ScoringTask*> tasks;
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
    if (stopping_) return;
    if (limits_.max_delay.count() > 0) {
      changed_.wait_for(lock, limits_.max_delay,
                        [this] { return stopping_ || waiting_rows_ >= limits_.max_batch_rows; });
      if (stopping_) return;
    }
    take_batch(batch);
    if (batch.empty()) continue;  // Another worker was faster.
    std::size_t rows = 0;
    tasks.clear();
    for (const auto& job : batch) {
      rows += job->task.rows;
      if (!job->cancelled->load(std::memory_order_relaxed)) tasks.push_back(&job->task);
    }
    running_rows_ += rows;
    lock.unlock();
    if (!tasks.empty()) scorer.score(tasks);
    lock.lock();
    running_rows_ -= rows;
    const bool first = finished_.empty();
    std::ranges::move(batch, std::back_inserter(finished_));
    batch.clear();
    if (first) wake_();
  }
}

void BatchQueue::take_batch(std::vector<std::unique_ptr<ScoringJob>>& batch) {
  const auto now = std::chrono::steady_clock::now();
  std::size_t rows = 0;
  while (!waiting_.empty()) {
    auto next = waiting_.upper_bound(last_served_);
    if (next == waiting_.end()) next = waiting_.begin();
    Jobs& jobs = next->second;
    const std::size_t more = jobs.front()->task.rows;
    if (!batch.empty() && rows + more > limits_.max_batch_rows) return;
    last_served_ = next->first;
    rows += more;
    waiting_rows_ -= more;
    ScoringJob& job = *batch.emplace_back(std::move(jobs.front()));
    job.task.waited = now - job.submitted;
    waits_s_.add(std::chrono::duration<double>(job.task.waited).count());
    jobs.pop_front();
    if (jobs.empty()) waiting_.erase(next);
  }
}

}  // namespace datasentinel
