#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include "serving/inference_service.h"
#include "serving/request_counts.h"
#include "wire/grpc/grpc_status.h"
#include "wire/grpc/inference_request.h"
#include "wire/grpc/nghttp2_api.h"

namespace datasentinel {

struct GrpcLimits {
  std::size_t max_message_bytes = std::size_t{4} << 20;
  std::size_t max_rows = std::size_t{1} << 20;  ///< Of one request.
  std::uint32_t max_streams = 128;              ///< Calls at once on one connection.
  std::uint32_t max_header_bytes = 16U << 10;   ///< Of one call.
  /// Unfinished messages and unsent replies of one connection; above that, calls are refused.
  std::size_t max_buffered_bytes = std::size_t{32} << 20;
  /// How long a message may take to arrive once it, or a call that has one, has begun; 0: any time.
  std::chrono::duration<double> receive_timeout{0};
  std::chrono::duration<double> min_ping_interval{0};  ///< See Http2Limits.
};

/// What all gRPC connections of one server share: the inference service, the limits, the counts.
///
/// One thread at a time, the one of the event loop.
class GrpcService {
 public:
  /// Whether a call of this method with this `authorization` header may pass, or how it ends.
  using Admit = std::function<GrpcStatus(std::string_view path, std::string_view authorization)>;

  /// Without `admit` all calls pass. Throws Error{invalid_argument} for no inference service or no counts.
  GrpcService(std::shared_ptr<const nghttp2::Api> http2, std::shared_ptr<InferenceService> inference,
              std::shared_ptr<RequestCounts> counts, GrpcLimits limits, Admit admit = nullptr);

  /// The library that the connections speak HTTP/2 with.
  [[nodiscard]] const std::shared_ptr<const nghttp2::Api>& http2() const noexcept { return http2_; }

  [[nodiscard]] const std::shared_ptr<InferenceService>& inference() const noexcept { return inference_; }
  [[nodiscard]] const ModelTable& models() const noexcept { return inference_->models(); }
  [[nodiscard]] const GrpcLimits& limits() const noexcept { return limits_; }
  [[nodiscard]] RequestCounts& counts() noexcept { return *counts_; }
  [[nodiscard]] const Admit& admit() const noexcept { return admit_; }

  [[nodiscard]] std::unique_ptr<InferenceRequest> new_request();
  void recycle(std::unique_ptr<InferenceRequest> request) noexcept;

 private:
  static constexpr std::size_t kSpares = 256;

  std::shared_ptr<const nghttp2::Api> http2_;
  std::shared_ptr<InferenceService> inference_;
  std::shared_ptr<RequestCounts> counts_;
  GrpcLimits limits_;
  Admit admit_;
  std::vector<std::unique_ptr<InferenceRequest>> spares_;
};

}  // namespace datasentinel
