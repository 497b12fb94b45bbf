#include "serving/batch_queue.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "core/error.h"

namespace datasentinel {

namespace {

bool is_given_up(const ScoringJob& job) noexcept {
  return job.cancelled != nullptr && job.cancelled->load(std::memory_order_relaxed);
}

bool has_memory(const ScoringJob& job) noexcept {
  return job.task.model != nullptr && job.task.model->states() != nullptr;
}

template <typename Call>
void for_each_states(const ScoringJob& job, Call call) {
  if (!has_memory(job)) return;
  for (StateStore* const states : job.task.model->changed_states()) {
    if (states != nullptr) call(*states);
  }
}

/// Whether rows of one stream change the same states through both.
bool share_states(const ServedModel& a, const ServedModel& b) noexcept {
  for (const StateStore* const states : a.changed_states()) {
    if (states != nullptr && std::ranges::count(b.changed_states(), states) != 0) return true;
  }
  return false;
}

}  // namespace

BatchQueue::BatchQueue(QueueLimits limits, std::function<void()> wake)
    : limits_(limits),
      wake_(std::move(wake)),
      waits_s_({1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25,
                0.5, 1, 2.5}) {
  if (limits_.max_rows == 0 || limits_.max_batch_rows == 0 || limits_.threads == 0) {
    throw Error(ErrorCode::invalid_argument, "the queue's rows, batch rows and threads must be at least 1");
  }
  for (std::size_t i = 0; i < limits_.threads; ++i) workers_.emplace_back([this] { work(); });
  preparer_ = std::jthread([this] { prepare(); });
}

BatchQueue::~BatchQueue() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  unprepared_.notify_all();
  workers_.clear();
  if (preparer_.joinable()) preparer_.join();
}

bool BatchQueue::submit(std::unique_ptr<ScoringJob>& job) {
  const bool needs_preparation = job->needs_preparation;
  {
    const std::lock_guard lock(mutex_);
    const std::size_t depth = waiting_rows_ + running_rows_;
    // An idle queue takes a job of any size; otherwise a large one would never get in.
    if (depth != 0 && depth + job->task.rows > limits_.max_rows) return false;
    job->submitted = std::chrono::steady_clock::now();
    job->counted_rows = job->task.rows;
    job->scored_rows = 0;
    waiting_rows_ += job->counted_rows;
    for_each_states(*job, [](StateStore& states) { states.begin_work(); });
    if (needs_preparation) {
      preparing_.push_back(std::move(job));
    } else {
      waiting_[job->connection].push_back(std::move(job));
    }
  }
  (needs_preparation ? unprepared_ : changed_).notify_one();
  return true;
}

void BatchQueue::finish(std::unique_ptr<ScoringJob> job) {
  for_each_states(*job, [](StateStore& states) { states.end_work(); });
  if (has_memory(*job) && std::erase(running_streams_, &job->task) != 0) changed_.notify_all();
  const bool first = finished_.empty();
  finished_.push_back(std::move(job));
  if (first) wake_();
}

void BatchQueue::prepare() {
  std::unique_lock lock(mutex_);
  for (;;) {
    unprepared_.wait(lock, [this] { return stopping_ || !preparing_.empty(); });
    if (stopping_) return;
    std::unique_ptr<ScoringJob> job = std::move(preparing_.front());
    preparing_.pop_front();
    lock.unlock();
    if (!is_given_up(*job)) job->prepare();
    lock.lock();
    if (job->task.failure || job->task.rows == 0 || is_given_up(*job)) {
      waiting_rows_ -= job->counted_rows;
      finish(std::move(job));
    } else {
      waiting_[job->connection].push_back(std::move(job));
      changed_.notify_one();
    }
  }
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
      const auto full = [this] {
        return stopping_ || waiting_.empty() || waiting_rows_ >= limits_.max_batch_rows;
      };
      changed_.wait_until(lock, oldest_submission() + limits_.max_delay, full);
      if (stopping_) return;
    }
    take_batch(batch);
    if (batch.empty()) {  // Another worker was faster, or has to finish first.
      if (!waiting_.empty()) changed_.wait(lock);
      continue;
    }
    std::size_t counted = 0;
    tasks.clear();
    for (const auto& job : batch) {
      counted += job->counted_rows;
      if (!is_given_up(*job)) tasks.push_back(&job->task);
      if (has_memory(*job) && std::ranges::find(running_streams_, &job->task) == running_streams_.end()) {
        running_streams_.push_back(&job->task);
      }
    }
    running_rows_ += counted;
    ScoringJob& front = *batch.front();
    const bool in_parts = front.task.rows > limits_.max_batch_rows && !tasks.empty();
    lock.unlock();
    if (in_parts) {
      const std::size_t part = std::min(limits_.max_batch_rows, front.task.rows - front.scored_rows);
      BatchScorer::score_rows(front.task, front.scored_rows, part);
      front.scored_rows += part;
    } else if (!tasks.empty()) {
      scorer.score(tasks);
    }
    lock.lock();
    running_rows_ -= counted;
    if (in_parts && front.scored_rows < front.task.rows && !front.task.failure) {
      waiting_rows_ += counted;
      waiting_[front.connection].push_front(std::move(batch.front()));
    } else {
      for (auto& job : batch) finish(std::move(job));
    }
    batch.clear();
  }
}

std::chrono::steady_clock::time_point BatchQueue::oldest_submission() const {
  auto oldest = std::chrono::steady_clock::time_point::max();
  for (const auto& [connection, jobs] : waiting_) oldest = std::min(oldest, jobs.front()->submitted);
  return oldest;
}

bool BatchQueue::is_blocked(const ScoringJob& job) const {
  const ScoringTask& task = job.task;
  return std::ranges::any_of(running_streams_, [&task](const ScoringTask* running) {
    if (running == &task || !share_states(*running->model, *task.model)) return false;
    return std::ranges::any_of(task.streams, [&](const StreamRows& of_stream) {
      return std::ranges::find(running->streams, of_stream.stream, &StreamRows::stream) !=
             running->streams.end();
    });
  });
}

void BatchQueue::take_batch(std::vector<std::unique_ptr<ScoringJob>>& batch) {
  const auto now = std::chrono::steady_clock::now();
  std::size_t rows = 0;
  for (std::size_t blocked = 0; blocked < waiting_.size();) {
    auto next = waiting_.upper_bound(last_served_);
    if (next == waiting_.end()) next = waiting_.begin();
    Jobs& jobs = next->second;
    if (is_blocked(*jobs.front())) {
      last_served_ = next->first;
      ++blocked;
      continue;
    }
    blocked = 0;
    const std::size_t more = jobs.front()->task.rows;
    if (!batch.empty() && rows + more > limits_.max_batch_rows) return;
    last_served_ = next->first;
    rows += more;
    ScoringJob& job = *batch.emplace_back(std::move(jobs.front()));
    waiting_rows_ -= job.counted_rows;
    if (job.scored_rows == 0) {
      job.task.waited = now - job.submitted;
      waits_s_.add(std::chrono::duration<double>(job.task.waited).count());
    }
    jobs.pop_front();
    if (jobs.empty()) waiting_.erase(next);
  }
}

}  // namespace datasentinel
