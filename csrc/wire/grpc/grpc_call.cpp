#include "wire/grpc/grpc_call.h"

#include <algorithm>

namespace datasentinel {
namespace {

// Headers beyond so many times their limit are not even answered.
constexpr std::size_t kMaxHeaderExcess = 4;
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

bool GrpcCall::take_header(std::string_view name, std::string_view value, HeaderLimits limits,
                           Clock::time_point now) {
  header_bytes += name.size() + value.size() + 32;
  if (header_bytes > kMaxHeaderExcess * limits.max_bytes) return false;
  if (header_bytes > limits.max_bytes) {
    metadata.clear();
    refusal = {GrpcCode::resource_exhausted,
               "headers larger than " + std::to_string(limits.max_bytes) + " bytes"};
  } else if (name == ":path") {
    method = grpc_method(value);
    if (method == GrpcMethod::other || limits.keep_for_admission) path = value;
  } else if (name == ":method") {
    is_post = value == "POST";
  } else if (name == "content-type") {
    is_grpc = value.starts_with("application/grpc");
  } else if (name == "grpc-timeout") {
    if (const auto timeout_s = parse_grpc_timeout(value)) {
      const std::chrono::duration<double> timeout(*timeout_s);
      deadline = now + std::chrono::duration_cast<Clock::duration>(timeout);
    } else {
      refusal = {GrpcCode::invalid_argument, "grpc-timeout is not valid"};
    }
  } else if (name == "grpc-encoding") {
    compresses = value == "gzip" || value == "deflate";
    if (!compresses && value != "identity") {
      refusal = {GrpcCode::unimplemented, "message encoding '" + std::string(value) + "' is not supported"};
    }
  } else if (name == "authorization" && limits.keep_for_admission) {
    authorization = value;
  } else if (method == GrpcMethod::other && !name.starts_with(':')) {
    metadata.emplace_back(name, value);
  }
  return true;
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
