#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "serving/batch_queue.h"
#include "serving/batch_scorer.h"
#include "serving/memory_budget.h"
#include "serving/model_table.h"

namespace datasentinel {

struct ServiceLimits {
  double max_inline_us = 300;  ///< Work expected to take longer is scored off the event loop.
  std::size_t max_memory_bytes = std::size_t{512} << 20;  ///< Held for all connections together.
};

/// A connection that takes back what the queue has scored for it.
class JobOwner {
 public:
  JobOwner() = default;
  JobOwner(const JobOwner&) = delete;
  JobOwner& operator=(const JobOwner&) = delete;
  virtual ~JobOwner() = default;
  virtual void on_scored(std::unique_ptr<ScoringJob> job) = 0;
};

/// The one inference service under all protocols: the models, the queue, and the connections that wait for an
/// answer.
///
/// One thread at a time, the one of the event loop.
class InferenceService {
 public:
  /// `wake` is called from another thread when `collect` has something to do. Throws Error{invalid_argument}
  /// for no models, or a limit of 0 of the queue.
  InferenceService(std::shared_ptr<const ModelTable> models, ServiceLimits limits, QueueLimits queue_limits,
                   std::function<void()> wake);

  [[nodiscard]] const ModelTable& models() const noexcept { return *models_; }
  [[nodiscard]] const ServiceLimits& limits() const noexcept { return limits_; }
  [[nodiscard]] BatchQueue& queue() noexcept { return queue_; }
  [[nodiscard]] const std::shared_ptr<MemoryBudget>& memory() const noexcept { return memory_; }

  /// Scores at once.
  void score(std::span<ScoringTask* const> tasks) { scorer_.score(tasks); }

  /// Whether this would hold up the event loop for too long.
  [[nodiscard]] bool is_long(std::span<ScoringTask* const> tasks) const;

  /// Takes the job; where the queue is full, as soon as it has room. For connections that send no more until
  /// it is answered, so that their number bounds what waits.
  void submit_in_time(std::unique_ptr<ScoringJob> job);

  /// Gives a connection its number, which its jobs carry.
  [[nodiscard]] std::uint64_t enter(JobOwner& connection);
  void leave(std::uint64_t connection) noexcept { connections_.erase(connection); }

  /// Hands what the queue has scored to the connections; returns the numbers of those that may have output.
  /// The jobs of connections that are gone are dropped.
  [[nodiscard]] std::vector<std::uint64_t> collect();

 private:
  std::shared_ptr<const ModelTable> models_;
  ServiceLimits limits_;
  std::shared_ptr<MemoryBudget> memory_;
  BatchScorer scorer_;
  std::unordered_map<std::uint64_t, JobOwner*> connections_;
  std::uint64_t last_connection_ = 0;
  std::deque<std::unique_ptr<ScoringJob>> waiting_for_room_;
  BatchQueue queue_;  // Last: its threads end first.
};

}  // namespace datasentinel
