#include "wire/grpc_service.h"

#include <utility>

namespace datasentinel {

GrpcService::GrpcService(std::shared_ptr<const nghttp2::Api> http2, std::shared_ptr<const ModelTable> models,
                         GrpcLimits limits, QueueLimits queue_limits, std::vector<double> latency_bounds_s,
                         std::function<void()> wake, Admit admit)
    : http2_(std::move(http2)),
      models_(std::move(models)),
      limits_(limits),
      counts_(std::move(latency_bounds_s)),
      admit_(std::move(admit)),
      queue_(queue_limits, std::move(wake)) {
  spares_.reserve(kSpares);
}

bool GrpcService::is_long(std::span<ScoringTask* const> tasks) const {
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
    if (model->scorer->session().on_device(rows)) return true;
  }
  if (model != nullptr) expected_us += model->cost.expected_us(rows);
  return expected_us > limits_.max_inline_us;
}

std::uint64_t GrpcService::enter(ScoredJobs& connection) {
  connections_.emplace(++last_connection_, &connection);
  return last_connection_;
}

std::vector<std::uint64_t> GrpcService::collect() {
  std::vector<std::uint64_t> served;
  for (auto& job : queue_.collect()) {
    // The queue holds nothing but requests of this service.
    std::unique_ptr<InferenceRequest> request(static_cast<InferenceRequest*>(job.release()));
    const auto owner = connections_.find(request->connection);
    if (owner == connections_.end()) {
      recycle(std::move(request));
      continue;
    }
    if (served.empty() || served.back() != owner->first) served.push_back(owner->first);
    owner->second->on_scored(std::move(request));
  }
  return served;
}

std::unique_ptr<InferenceRequest> GrpcService::new_request() {
  if (spares_.empty()) return std::make_unique<InferenceRequest>();
  std::unique_ptr<InferenceRequest> request = std::move(spares_.back());
  spares_.pop_back();
  return request;
}

void GrpcService::recycle(std::unique_ptr<InferenceRequest> request) noexcept {
  if (request == nullptr || spares_.size() == kSpares) return;
  request->recycle();
  spares_.push_back(std::move(request));
}

}  // namespace datasentinel
