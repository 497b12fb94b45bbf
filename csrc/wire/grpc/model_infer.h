#pragma once

#include <string>
#include <string_view>

#include "serving/model_table.h"
#include "wire/grpc/grpc_status.h"
#include "wire/grpc/inference_request.h"

// ModelInfer of the Open Inference Protocol, between its bytes and a scoring task
// (proto/inference/grpc_predict_v2.proto).

namespace datasentinel {

/// Decodes an inference.ModelInferRequest.
[[nodiscard]] GrpcStatus decode_model_infer(std::string_view message, const ModelTable& models,
                                            const InferenceLimits& limits, InferenceRequest& request);

/// Appends an inference.ModelInferResponse for a task that was scored.
void encode_model_infer(const InferenceRequest& request, std::string& out);

/// Appends an inference.ModelStreamInferResponse: the same, or the problem where there is one.
void encode_model_stream_infer(const InferenceRequest& request, std::string_view problem, std::string& out);

}  // namespace datasentinel
