#pragma once

#include <string>
#include <utility>

#include "core/error.h"

namespace datasentinel {

/// The status codes of gRPC, by their numbers on the wire.
enum class GrpcCode : int {
  ok = 0,
  cancelled = 1,
  invalid_argument = 3,
  deadline_exceeded = 4,
  not_found = 5,
  permission_denied = 7,
  resource_exhausted = 8,
  unimplemented = 12,
  internal = 13,
  unavailable = 14,
  unauthenticated = 16,
};

/// How a call ended.
struct GrpcStatus {
  GrpcCode code = GrpcCode::ok;
  std::string message = {};

  [[nodiscard]] bool ok() const noexcept { return code == GrpcCode::ok; }
};

/// The one table from our errors to gRPC's codes.
[[nodiscard]] inline GrpcCode grpc_code(ErrorCode code) noexcept {
  switch (code) {
    case ErrorCode::invalid_argument:
    case ErrorCode::unsupported_model: return GrpcCode::invalid_argument;
    case ErrorCode::not_found: return GrpcCode::not_found;
    case ErrorCode::not_allowed: return GrpcCode::permission_denied;
    case ErrorCode::unavailable: return GrpcCode::unavailable;
    case ErrorCode::out_of_memory:
    case ErrorCode::resource_exhausted: return GrpcCode::resource_exhausted;
    case ErrorCode::invalid_model:
    case ErrorCode::backend_failure: return GrpcCode::internal;
  }
  return GrpcCode::internal;
}

}  // namespace datasentinel
