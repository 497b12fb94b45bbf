#pragma once

#include <atomic>
#include <string>
#include <utility>

#include "backends/cuda/driver.h"
#include "core/error.h"

namespace datasentinel::cuda {

/// Whether a session has lost the device's context. Some errors pass, such as too little memory or a launch
/// that was refused; others every later call repeats, and only a new session (in a new process, mostly)
/// helps. Thread-safe.
class ContextLoss {
 public:
  explicit ContextLoss(std::string backend) : backend_(std::move(backend)) {}

  /// Throws Error{backend_failure}: the context is lost.
  void refuse_if_lost() const {
    if (!is_lost_.load(std::memory_order_relaxed)) return;
    throw Error(ErrorCode::backend_failure, backend_ + ": this session failed before; load the model again");
  }

  /// After an error: waits until nothing is under way on the stream any more, so that its memory may be used
  /// anew. Where that fails, too, the context is lost, or something may go on.
  void settle(const Driver& driver, const Stream& stream) noexcept {
    if (driver.cuStreamSynchronize(stream.get()) != 0) is_lost_.store(true, std::memory_order_relaxed);
  }

 private:
  const std::string backend_;
  std::atomic<bool> is_lost_{false};
};

}  // namespace datasentinel::cuda
