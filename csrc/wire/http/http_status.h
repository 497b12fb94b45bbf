#pragma once

#include "core/error.h"

namespace datasentinel {

/// The one table from our errors to HTTP's status codes.
[[nodiscard]] inline int http_status(ErrorCode code) noexcept {
  switch (code) {
    case ErrorCode::invalid_argument:
    case ErrorCode::unsupported_model: return 400;
    case ErrorCode::not_allowed: return 403;
    case ErrorCode::not_found: return 404;
    case ErrorCode::unavailable:
    case ErrorCode::out_of_memory:
    case ErrorCode::resource_exhausted: return 503;
    case ErrorCode::invalid_model:
    case ErrorCode::backend_failure: return 500;
  }
  return 500;
}

}  // namespace datasentinel
