#include "serving/inference_service.h"

#include <utility>

#include "core/error.h"

namespace datasentinel {

InferenceService::InferenceService(std::shared_ptr<const ModelTable> models, ServiceLimits limits,
                                   QueueLimits queue_limits, std::function<void()> wake)
    : models_(std::move(models)),
      limits_(limits),
      memory_(std::make_shared<MemoryBudget>(limits.max_memory_bytes)),
      queue_(queue_limits, std::move(wake)) {
  if (models_ == nullptr) throw Error(ErrorCode::invalid_argument, "a service needs a table of models");
}

bool InferenceService::is_long(std::span<ScoringTask* const> tasks) const {
  double expected_us = 0;
  const ServedModel* model = nullptr;
  std::size_t rows = 0;
  // Tasks of one model mostly come together, and then the estimate is that of their common batch.
  for (const ScoringTask* task : tasks) {
    if (task->model.get() != model) {
      if (model != nullptr) expected_us += model->cost.expected_us(rows);
      model = task->model.get();
      rows = 0;
    }
    rows += task->rows;
    // Rows of one stream keep their order: none overtakes those that wait, for a version that has just left
    // the shadow neither.
    for (const StateStore* const states : model->changed_states()) {
      if (states != nullptr && states->has_work()) return true;
    }
    if (model->scorer->session().on_device(rows)) return true;
  }
  if (model != nullptr) expected_us += model->cost.expected_us(rows);
  return expected_us > limits_.max_inline_us;
}

void InferenceService::submit_in_time(std::unique_ptr<ScoringJob> job) {
  if (!waiting_for_room_.empty() || !queue_.submit(job)) waiting_for_room_.push_back(std::move(job));
}

std::uint64_t InferenceService::enter(JobOwner& connection) {
  connections_.emplace(++last_connection_, &connection);
  return last_connection_;
}

std::vector<std::uint64_t> InferenceService::collect() {
  std::vector<std::uint64_t> served;
  for (auto& job : queue_.collect()) {
    const auto owner = connections_.find(job->connection);
    if (owner == connections_.end()) continue;
    if (served.empty() || served.back() != owner->first) served.push_back(owner->first);
    owner->second->on_scored(std::move(job));
  }
  while (!waiting_for_room_.empty()) {
    if (connections_.contains(waiting_for_room_.front()->connection) &&
        !queue_.submit(waiting_for_room_.front())) {
      break;
    }
    waiting_for_room_.pop_front();
  }
  return served;
}

}  // namespace datasentinel
