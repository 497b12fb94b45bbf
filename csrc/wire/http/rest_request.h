#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "serving/batch_queue.h"
#include "serving/memory_budget.h"
#include "wire/model_outputs.h"

namespace datasentinel {

/// One inference request of the Open Inference Protocol over HTTP, and then what its reply needs: JSON, and
/// the extension that carries tensors as bytes behind it.
///
/// `task.model` is set by the owner, and may not be null; everything else about the task by `read`.
struct RestRequest final : ScoringJob {
  /// Bytes of the body that are JSON; the input's bytes follow. Nothing: all of it is JSON. 0: none of it,
  /// and the bytes are the whole request (Triton's raw binary request).
  std::optional<std::size_t> json_bytes = {};
  std::size_t max_rows = 0;
  std::size_t body_bytes = 0;
  std::string body = {};  ///< For `prepare`.
  MemoryCharge memory = {};

  bool is_read = false;  ///< Nothing was wrong with the body; a failure is the model's.
  std::string id = {};
  AskedOutputs outputs = {};
  std::array<bool, kModelOutputNames.size()> in_binary = {};  ///< By output.

  [[nodiscard]] bool is_binary(ModelOutput output) const noexcept {
    return in_binary[static_cast<std::size_t>(output)];
  }

  /// Reads `body`, off the event loop. What is wrong with it becomes the task's failure.
  void prepare() noexcept override;

  /// Reads a body. What is wrong with it becomes the task's failure.
  void read(std::string_view text) noexcept;
};

}  // namespace datasentinel
