#pragma once

#include <string>
#include <string_view>

#include "serving/model_table.h"
#include "wire/grpc/grpc_status.h"
#include "wire/grpc/inference_request.h"

// Evaluate of datasentinel.v1, between its bytes and a scoring task (proto/datasentinel/v1/inference.proto).

namespace datasentinel {

/// Decodes a datasentinel.v1.EvaluateRequest. A refused row is not an error of the call: then the task
/// has a failure.
[[nodiscard]] GrpcStatus decode_evaluate(std::string_view message, const ModelTable& models,
                                         InferenceRequest& request);

/// Appends a datasentinel.v1.EvaluateResponse, also for a row that was refused.
void encode_evaluate(const InferenceRequest& request, std::string& out);

/// Decodes a datasentinel.v1.EvaluateBatchRequest. A refused batch is not an error of the call: then the
/// task has a failure.
[[nodiscard]] GrpcStatus decode_evaluate_batch(std::string_view message, const ModelTable& models,
                                               const InferenceLimits& limits, InferenceRequest& request);

/// Appends a datasentinel.v1.EvaluateBatchResponse, also for a batch that was refused.
void encode_evaluate_batch(const InferenceRequest& request, std::string& out);

}  // namespace datasentinel
