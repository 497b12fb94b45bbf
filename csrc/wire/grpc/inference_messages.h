#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "serving/batch_queue.h"
#include "serving/model_table.h"
#include "wire/grpc/grpc_status.h"

// The messages that carry rows, between their bytes and a scoring task: ModelInfer of the Open Inference
// Protocol and Evaluate of datasentinel.v1 (proto/ holds both contracts). All other messages are left to
// protobuf's own library.

namespace datasentinel {

/// One request for scores, decoded, with what its reply has to repeat. A failure that the decoder sets in the
/// task is the answer; such a task is not scored. Reused, so that its memory is, too.
struct InferenceRequest final : ScoringJob {
  enum class Output : std::uint8_t { score, anomaly, warming, severity, output, contributions };

  std::string id;
  std::uint64_t number = 0;         ///< The id of an EvaluateBatchRequest.
  std::array<Output, 6> outputs{};  ///< In the order asked for.
  std::size_t output_count = 0;
  bool raw = false;             ///< The request held raw bytes, so its reply does.
  std::size_t explain_top = 0;  ///< How many reasons an EvaluateRequest asks for.
  bool with_p_value = false;    ///< Whether it asks for the score's p-value.

  void recycle() noexcept;
};

struct InferenceLimits {
  std::size_t max_rows = std::size_t{1} << 20;  ///< Of one request.
};

/// Decodes an inference.ModelInferRequest.
[[nodiscard]] GrpcStatus decode_model_infer(std::string_view message, const ModelTable& models,
                                            const InferenceLimits& limits, InferenceRequest& request);

/// Appends an inference.ModelInferResponse for a task that was scored.
void encode_model_infer(const InferenceRequest& request, std::string& out);

/// Appends an inference.ModelStreamInferResponse: the same, or the problem where there is one.
void encode_model_stream_infer(const InferenceRequest& request, std::string_view problem, std::string& out);

/// Decodes a datasentinel.v1.EvaluateRequest. A row that is refused is no error of the call: then the task
/// has a failure.
[[nodiscard]] GrpcStatus decode_evaluate(std::string_view message, const ModelTable& models,
                                         InferenceRequest& request);

/// Appends a datasentinel.v1.EvaluateResponse, also for a row that was refused.
void encode_evaluate(const InferenceRequest& request, std::string& out);

/// Decodes a datasentinel.v1.EvaluateBatchRequest. A batch that is refused is no error of the call: then the
/// task has a failure.
[[nodiscard]] GrpcStatus decode_evaluate_batch(std::string_view message, const ModelTable& models,
                                               const InferenceLimits& limits, InferenceRequest& request);

/// Appends a datasentinel.v1.EvaluateBatchResponse, also for a batch that was refused.
void encode_evaluate_batch(const InferenceRequest& request, std::string& out);

}  // namespace datasentinel
