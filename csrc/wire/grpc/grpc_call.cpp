#include "wire/grpc/grpc_call.h"

#include <algorithm>

namespace datasentinel {
namespace {

constexpr double kMaxTimeoutS = 1e8;  // Far from what a clock's counter can hold.

}  // namespace

GrpcMethod grpc_method(std::string_view path) noexcept {
  if (path == kModelInferPath) return GrpcMethod::model_infer;
  if (path == kModelStreamInferPath) return GrpcMethod::model_stream_infer;
  if (path == kEvaluatePath) return GrpcMethod::evaluate;
  if (path == kEvaluateBatchPath) return GrpcMethod::evaluate_batch;
  if (path == kEvaluateStreamPath) return GrpcMethod::evaluate_stream;
  return GrpcMethod::other;
}

std::optional<double> parse_grpc_timeout(std::string_view text) noexcept {
  if (text.size() < 2 || text.size() > 9) return std::nullopt;
  double value = 0;
  for (const char c : text.substr(0, text.size() - 1)) {
    if (c < '0' || c > '9') return std::nullopt;
    value = 10 * value + (c - '0');
  }
  switch (text.back()) {
    case 'H': value *= 3600; break;
    case 'M': value *= 60; break;
    case 'S': break;
    case 'm': value *= 1e-3; break;
    case 'u': value *= 1e-6; break;
    case 'n': value *= 1e-9; break;
    default: return std::nullopt;
  }
  return std::min(value, kMaxTimeoutS);
}

void GrpcCall::recycle() noexcept {
  empty_buffer(out);
  empty_buffer(body);
  out_start = 0;
  responding = finished = deferred = ended = false;
  unread = 0;
  status.clear();
  status_message.clear();
  method = GrpcMethod::other;
  is_post = is_grpc = compresses = false;
  refusal = {};
  header_bytes = 0;
  deadline.reset();
  receive_by.reset();
  path.clear();
  authorization.clear();
  metadata.clear();
  pending.clear();
  pending_bytes = 0;
  answered = 0;
}

}  // namespace datasentinel
