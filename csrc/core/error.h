#pragma once

#include <array>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace datasentinel {

/// What kind of thing went wrong. The bindings map each code to one Python exception class.
enum class ErrorCode {
  invalid_argument,    ///< The caller's value is wrong (shape, non-finite number, unknown name).
  invalid_model,       ///< The model file is broken or contradicts itself.
  unsupported_model,   ///< The model is sound, but this backend cannot run it.
  not_found,           ///< A file or a model does not exist.
  not_allowed,         ///< The settings do not let clients do this.
  unavailable,         ///< The backend cannot run on this machine.
  out_of_memory,       ///< Host or device memory ran out.
  resource_exhausted,  ///< A limit of ours (queue, size) was hit.
  backend_failure,     ///< The backend's library reported a failure.
};

inline constexpr std::array kErrorCodes{
    ErrorCode::invalid_argument, ErrorCode::invalid_model,      ErrorCode::unsupported_model,
    ErrorCode::not_found,        ErrorCode::not_allowed,        ErrorCode::unavailable,
    ErrorCode::out_of_memory,    ErrorCode::resource_exhausted, ErrorCode::backend_failure,
};

/// What metrics call an error, over all protocols that have no codes of their own.
[[nodiscard]] constexpr std::string_view error_name(ErrorCode code) noexcept {
  switch (code) {
    case ErrorCode::invalid_argument: return "invalid_argument";
    case ErrorCode::unsupported_model: return "unimplemented";
    case ErrorCode::not_found: return "not_found";
    case ErrorCode::not_allowed: return "permission_denied";
    case ErrorCode::unavailable: return "unavailable";
    case ErrorCode::out_of_memory:
    case ErrorCode::resource_exhausted: return "resource_exhausted";
    case ErrorCode::invalid_model:
    case ErrorCode::backend_failure: return "internal";
  }
  return "internal";
}

/// The only exception type the core throws. `what()` says what happened, where, and what to do.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message, std::string vendor_text = {})
      : std::runtime_error(message), code_(code), vendor_text_(std::move(vendor_text)) {}

  [[nodiscard]] ErrorCode code() const noexcept { return code_; }

  /// The vendor library's own words, or empty.
  [[nodiscard]] const std::string& vendor_text() const noexcept { return vendor_text_; }

 private:
  ErrorCode code_;
  std::string vendor_text_;
};

}  // namespace datasentinel
