#include "wire/grpc/grpc_codec.h"

#include "wire/grpc/evaluate.h"
#include "wire/grpc/model_infer.h"

namespace datasentinel {

GrpcStatus decode_request(GrpcMethod method, std::string_view message, const ModelTable& models,
                          std::size_t max_rows, InferenceRequest& request) {
  const InferenceLimits limits{.max_rows = max_rows};
  switch (method) {
    case GrpcMethod::evaluate: return decode_evaluate(message, models, request);
    case GrpcMethod::evaluate_batch:
    case GrpcMethod::evaluate_stream: return decode_evaluate_batch(message, models, limits, request);
    default: return decode_model_infer(message, models, limits, request);
  }
}

void encode_reply(GrpcMethod method, const InferenceRequest& request, std::string_view problem,
                  std::string& out) {
  switch (method) {
    case GrpcMethod::evaluate: return encode_evaluate(request, out);
    case GrpcMethod::evaluate_batch:
    case GrpcMethod::evaluate_stream: return encode_evaluate_batch(request, out);
    case GrpcMethod::model_stream_infer: return encode_model_stream_infer(request, problem, out);
    default: return encode_model_infer(request, out);
  }
}

std::string describe_failure(GrpcMethod method, const Error& failure) {
  const bool names_input = failure.code() == ErrorCode::invalid_argument &&
                           (method == GrpcMethod::model_infer || method == GrpcMethod::model_stream_infer);
  return (names_input ? "input 'input': " : "") + std::string(failure.what());
}

}  // namespace datasentinel
