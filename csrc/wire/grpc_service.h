#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "serving/batch_queue.h"
#include "serving/batch_scorer.h"
#include "serving/model_table.h"
#include "serving/request_counts.h"
#include "wire/inference_messages.h"
#include "wire/nghttp2_api.h"

namespace datasentinel {

struct GrpcLimits {
  std::size_t max_message_bytes = std::size_t{4} << 20;
  std::size_t max_rows = std::size_t{1} << 20;  ///< Of one request.
  std::uint32_t max_streams = 128;              ///< Calls at once on one connection.
  std::uint32_t max_header_bytes = 16U << 10;   ///< Of one call.
  /// Unfinished messages and unsent replies of one connection; above that, calls are refused.
  std::size_t max_buffered_bytes = std::size_t{32} << 20;
  double max_inline_us = 300;  ///< Work expected to take longer is scored off the event loop.
};

/// Takes back what the queue has scored.
class ScoredJobs {
 public:
  virtual ~ScoredJobs() = default;
  virtual void on_scored(std::unique_ptr<InferenceRequest> request) = 0;
};

/// What all gRPC connections of one server share: the models, the limits, the queue, the counts.
///
/// One thread at a time, the one of the event loop.
class GrpcService {
 public:
  /// Whether a call of this method with this `authorization` header may pass.
  using Admit = std::function<bool(std::string_view path, std::string_view authorization)>;

  /// `wake` is called from another thread when `collect` has something to do. Without `admit` all calls pass.
  GrpcService(std::shared_ptr<const nghttp2::Api> http2, std::shared_ptr<const ModelTable> models,
              GrpcLimits limits, QueueLimits queue_limits, std::vector<double> latency_bounds_s,
              std::function<void()> wake, Admit admit = nullptr);

  /// The library that the connections speak HTTP/2 with.
  [[nodiscard]] const std::shared_ptr<const nghttp2::Api>& http2() const noexcept { return http2_; }

  [[nodiscard]] const ModelTable& models() const noexcept { return *models_; }
  [[nodiscard]] const GrpcLimits& limits() const noexcept { return limits_; }
  [[nodiscard]] RequestCounts& counts() noexcept { return counts_; }
  [[nodiscard]] const Admit& admit() const noexcept { return admit_; }
  [[nodiscard]] BatchQueue& queue() noexcept { return queue_; }

  /// Scores at once.
  void score(std::span<ScoringTask* const> tasks) { scorer_.score(tasks); }

  /// Whether this would hold up the event loop for too long.
  [[nodiscard]] bool is_long(std::span<ScoringTask* const> tasks) const;

  /// Gives a connection its number.
  [[nodiscard]] std::uint64_t enter(ScoredJobs& connection);
  void leave(std::uint64_t connection) noexcept { connections_.erase(connection); }

  /// Hands what the queue has scored to the connections; gives the numbers of those that may have output.
  [[nodiscard]] std::vector<std::uint64_t> collect();

  [[nodiscard]] std::unique_ptr<InferenceRequest> new_request();
  void recycle(std::unique_ptr<InferenceRequest> request) noexcept;

 private:
  static constexpr std::size_t kSpares = 256;

  std::shared_ptr<const nghttp2::Api> http2_;
  std::shared_ptr<const ModelTable> models_;
  GrpcLimits limits_;
  RequestCounts counts_;
  Admit admit_;
  BatchScorer scorer_;
  std::vector<std::unique_ptr<InferenceRequest>> spares_;
  std::unordered_map<std::uint64_t, ScoredJobs*> connections_;
  std::uint64_t last_connection_ = 0;
  BatchQueue queue_;  // Last: its threads end first.
};

}  // namespace datasentinel
