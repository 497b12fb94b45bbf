#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "core/error.h"
#include "serving/inference_service.h"

namespace datasentinel {

/// One connection's protocol: bytes in, reply bytes out, no sockets. It decodes and encodes; the inference
/// service does the rest.
///
/// One thread at a time.
class WireSession : public JobOwner {
 public:
  /// What holds after a turn; 0, as after most small messages, means that the session asks for nothing.
  enum StateBit : unsigned {
    kNeedsAttention = 1,  ///< The owner has something to log, or to attend to.
    kMidMessage = 2,      ///< The start of a message was read, but not its end.
    kClosed = 4,          ///< Nothing more will be read; the owner closes once everything is written.
    kUnfinished = 8,      ///< The turn ended before everything was done that can be: it takes another one.
    kWaiting = 16,        ///< A request is being answered: by the queue, or by the owner.
    kEvent = 32,          ///< A request is left to the owner.
    kIdle = 64,           ///< Nothing that the peer asked for has moved.
  };

  /// Throws Error{invalid_argument} for no inference service.
  explicit WireSession(std::shared_ptr<InferenceService> inference) : inference_(std::move(inference)) {
    if (inference_ == nullptr) {
      throw Error(ErrorCode::invalid_argument, "a session needs an inference service");
    }
    number_ = inference_->enter(*this);
  }
  ~WireSession() override { inference_->leave(number_); }

  /// Takes the next bytes of the stream, and a turn of about a millisecond; appends what is to be sent.
  virtual void feed(std::string_view bytes, std::string& out) = 0;

  /// The stream ended: what was asked for completely is still answered, the rest is refused or given up.
  virtual void finish(std::string& out) = 0;

  [[nodiscard]] virtual bool needs_attention() const noexcept = 0;
  [[nodiscard]] virtual bool mid_message() const noexcept = 0;
  [[nodiscard]] virtual bool closed() const noexcept = 0;
  [[nodiscard]] virtual bool unfinished() const noexcept = 0;
  [[nodiscard]] virtual bool waiting() const noexcept { return false; }
  [[nodiscard]] virtual bool has_event() const noexcept { return false; }
  [[nodiscard]] virtual bool idle() const noexcept { return false; }

  [[nodiscard]] unsigned state() const noexcept {
    return (needs_attention() ? kNeedsAttention : 0U) | (mid_message() ? kMidMessage : 0U) |
           (closed() ? kClosed : 0U) | (unfinished() ? kUnfinished : 0U) | (waiting() ? kWaiting : 0U) |
           (has_event() ? kEvent : 0U) | (idle() ? kIdle : 0U);
  }

  /// The number by which `InferenceService::collect` names it.
  [[nodiscard]] std::uint64_t number() const noexcept { return number_; }

 protected:
  [[nodiscard]] InferenceService& inference() const noexcept { return *inference_; }

 private:
  std::shared_ptr<InferenceService> inference_;
  std::uint64_t number_ = 0;
};

}  // namespace datasentinel
