#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "serving/batch_queue.h"
#include "wire/model_outputs.h"

namespace datasentinel {

/// One request for scores, decoded, with what its reply has to repeat. A failure that the decoder sets in the
/// task is the answer; such a task is not scored. Reused, so that its memory is, too.
struct InferenceRequest final : ScoringJob {
  std::string id;
  std::uint64_t number = 0;  ///< The id of an EvaluateBatchRequest.
  AskedOutputs outputs;
  bool raw = false;             ///< The request held raw bytes, so its reply does.
  std::size_t explain_top = 0;  ///< How many reasons an EvaluateRequest asks for.
  bool with_p_value = false;    ///< Whether it asks for the score's p-value.

  void recycle() noexcept;
};

struct InferenceLimits {
  std::size_t max_rows = std::size_t{1} << 20;  ///< Of one request.
};

}  // namespace datasentinel
