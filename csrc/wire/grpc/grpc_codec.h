#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "core/error.h"
#include "serving/model_table.h"
#include "wire/grpc/grpc_call.h"
#include "wire/grpc/grpc_status.h"
#include "wire/grpc/inference_request.h"

// Which message each of the session's own methods takes and answers with.

namespace datasentinel {

/// Decodes a message of a method that is not `other`.
[[nodiscard]] GrpcStatus decode_request(GrpcMethod method, std::string_view message, const ModelTable& models,
                                        std::size_t max_rows, InferenceRequest& request);

/// Appends the reply to a request that was scored or, of a method that says so in its reply, refused.
void encode_reply(GrpcMethod method, const InferenceRequest& request, std::string_view problem,
                  std::string& out);

/// A failure as the method's client reads it.
[[nodiscard]] std::string describe_failure(GrpcMethod method, const Error& failure);

}  // namespace datasentinel
