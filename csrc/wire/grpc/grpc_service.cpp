#include "wire/grpc/grpc_service.h"

#include <utility>

#include "core/error.h"

namespace datasentinel {

GrpcService::GrpcService(std::shared_ptr<const nghttp2::Api> http2,
                         std::shared_ptr<InferenceService> inference, std::shared_ptr<RequestCounts> counts,
                         GrpcLimits limits, Admit admit)
    : http2_(std::move(http2)),
      inference_(std::move(inference)),
      counts_(std::move(counts)),
      limits_(limits),
      admit_(std::move(admit)) {
  if (inference_ == nullptr || counts_ == nullptr) {
    throw Error(ErrorCode::invalid_argument, "gRPC needs an inference service, and counts");
  }
  spares_.reserve(kSpares);
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
