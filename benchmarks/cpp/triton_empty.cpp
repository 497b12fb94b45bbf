// What a request costs in Triton before any model runs: a backend that answers every request for `score` with
// zeros, one a row. The reference of benchmarks.bench_wire; `tritonserver` loads it as libtriton_empty.so.

#include <triton/core/tritonbackend.h>

#include <cstdint>
#include <cstring>

namespace {

/// One zero a row. Null, or what Triton said.
TRITONSERVER_Error* answer(TRITONBACKEND_Request* request, TRITONBACKEND_Response* response) {
  TRITONBACKEND_Input* input = nullptr;
  if (auto* error = TRITONBACKEND_RequestInputByIndex(request, 0, &input)) return error;
  const std::int64_t* shape = nullptr;
  if (auto* error = TRITONBACKEND_InputProperties(input, nullptr, nullptr, &shape, nullptr, nullptr, nullptr))
    return error;
  TRITONBACKEND_Output* output = nullptr;
  if (auto* error =
          TRITONBACKEND_ResponseOutput(response, &output, "score", TRITONSERVER_TYPE_FP32, shape, 1))
    return error;
  void* scores = nullptr;
  auto memory = TRITONSERVER_MEMORY_CPU;
  std::int64_t memory_id = 0;
  const std::uint64_t bytes = static_cast<std::uint64_t>(shape[0]) * sizeof(float);
  if (auto* error = TRITONBACKEND_OutputBuffer(output, &scores, bytes, &memory, &memory_id)) return error;
  std::memset(scores, 0, bytes);
  return nullptr;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) TRITONSERVER_Error* TRITONBACKEND_ModelInstanceExecute(
    TRITONBACKEND_ModelInstance* /*instance*/, TRITONBACKEND_Request** requests, std::uint32_t count) {
  for (std::uint32_t i = 0; i < count; ++i) {
    TRITONBACKEND_Response* response = nullptr;
    if (auto* error = TRITONBACKEND_ResponseNew(&response, requests[i])) return error;
    auto* failure = answer(requests[i], response);
    if (auto* error = TRITONBACKEND_ResponseSend(response, TRITONSERVER_RESPONSE_COMPLETE_FINAL, failure))
      return error;
    if (auto* error = TRITONBACKEND_RequestRelease(requests[i], TRITONSERVER_REQUEST_RELEASE_ALL))
      return error;
  }
  return nullptr;
}
