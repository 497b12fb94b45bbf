#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "core/histogram.h"
#include "serving/batch_scorer.h"

namespace datasentinel {

/// A scoring task on its way through the queue, with what leads its answer back.
struct ScoringJob {
  ScoringJob() = default;
  ScoringJob(const ScoringJob&) = delete;
  ScoringJob& operator=(const ScoringJob&) = delete;
  virtual ~ScoringJob() = default;

  /// Fills the task in, where that is too long a work for the event loop. What goes wrong becomes the task's
  /// failure. Called in a thread of the queue's own, once, if `needs_preparation`.
  virtual void prepare() noexcept {}

  ScoringTask task;
  bool needs_preparation = false;
  std::uint64_t connection = 0;                     ///< Whose it is; the queue is fair between connections.
  std::int32_t call = 0;                            ///< The owner's own.
  std::uint64_t sequence = 0;                       ///< The owner's own.
  std::chrono::steady_clock::time_point submitted;  ///< Set by the queue, as are the next two.
  std::size_t counted_rows = 0;                     ///< As many as the task had when it was submitted.
  std::size_t scored_rows = 0;
  /// Set by the owner when nobody waits for the answer any more; the job may then come back unscored. Null
  /// for an owner who always waits.
  std::shared_ptr<std::atomic<bool>> cancelled;
};

struct QueueLimits {
  std::size_t max_rows = std::size_t{1} << 16;  ///< Waiting or running; more are refused.
  std::size_t max_batch_rows = 4096;            ///< A batch takes no further job beyond this.
  std::chrono::microseconds max_delay{0};       ///< How long after its submission a job may wait for company.
  std::size_t threads = 1;
};

/// Scores jobs off the event loop. While a batch runs, the next one gathers; nobody waits for a timer unless
/// asked to. A job of more rows than a batch may have is scored in parts, between which others have their
/// turn. Every job that is accepted comes back exactly once. Jobs that have a stream in common are scored one
/// after the other, each as a whole.
///
/// Thread-safe.
class BatchQueue {
 public:
  /// `wake` is called from a worker whenever jobs are to be collected and none were before. Throws
  /// Error{invalid_argument} for a limit of 0.
  BatchQueue(QueueLimits limits, std::function<void()> wake);
  BatchQueue(const BatchQueue&) = delete;
  BatchQueue& operator=(const BatchQueue&) = delete;
  /// Waits for the batches that run; jobs still waiting are dropped.
  ~BatchQueue();

  /// Takes the job; or, when the queue is full, leaves it where it is and returns false.
  [[nodiscard]] bool submit(std::unique_ptr<ScoringJob>& job);

  /// The jobs finished since the last call.
  [[nodiscard]] std::vector<std::unique_ptr<ScoringJob>> collect();

  /// Rows waiting or running.
  [[nodiscard]] std::size_t depth_rows() const;

  /// How long jobs waited for their batch to start, in seconds.
  [[nodiscard]] const Histogram& waits_s() const noexcept { return waits_s_; }

 private:
  using Jobs = std::deque<std::unique_ptr<ScoringJob>>;

  void work();
  /// Prepares the jobs that need it, so that those that do not need not wait for it.
  void prepare();
  void finish(std::unique_ptr<ScoringJob> job);
  /// When the job that has waited longest was submitted. The lock is held, and there is one.
  [[nodiscard]] std::chrono::steady_clock::time_point oldest_submission() const;
  /// Whether the job has to wait for one that runs, or is scored in parts. The lock is held.
  [[nodiscard]] bool is_blocked(const ScoringJob& job) const;
  /// One job of every connection in turn, until the batch is full. The lock is held.
  void take_batch(std::vector<std::unique_ptr<ScoringJob>>& batch);

  QueueLimits limits_;
  std::function<void()> wake_;
  Histogram waits_s_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::condition_variable unprepared_;
  Jobs preparing_;
  std::map<std::uint64_t, Jobs> waiting_;  ///< By connection; none of them empty.
  std::uint64_t last_served_ = 0;
  std::size_t waiting_rows_ = 0;
  std::size_t running_rows_ = 0;
  std::vector<const ScoringTask*> running_streams_;  ///< Of models with memory: running, or scored in parts.
  std::vector<std::unique_ptr<ScoringJob>> finished_;
  bool stopping_ = false;
  std::vector<std::jthread> workers_;
  std::jthread preparer_;
};

}  // namespace datasentinel
