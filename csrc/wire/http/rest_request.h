#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "serving/batch_queue.h"
#include "serving/memory_budget.h"

namespace datasentinel {

/// What a reply may hold, in the order of `kRestOutputNames`.
enum class RestOutput : std::uint8_t { score, anomaly, warming, severity, output, contributions };
inline constexpr std::array<std::string_view, 6> kRestOutputNames{"score",    "anomaly", "warming",
                                                                  "severity", "output",  "contributions"};

/// Whether it has as many columns as the input.
[[nodiscard]] constexpr bool is_matrix(RestOutput output) noexcept { return output >= RestOutput::output; }

/// Whether its values are truths, of a byte each, and not float32.
[[nodiscard]] constexpr bool is_bool(RestOutput output) noexcept {
  return output == RestOutput::anomaly || output == RestOutput::warming;
}

struct RestRequestedOutput {
  RestOutput output = RestOutput::score;
  bool binary = false;
};

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
  std::vector<RestRequestedOutput> outputs = {};

  /// Reads `body`, off the event loop. What is wrong with it becomes the task's failure.
  void prepare() noexcept override;

  /// Reads a body. What is wrong with it becomes the task's failure.
  void read(std::string_view text) noexcept;
};

}  // namespace datasentinel
