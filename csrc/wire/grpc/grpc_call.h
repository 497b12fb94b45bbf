#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "wire/grpc/grpc_status.h"
#include "wire/grpc/http2_connection.h"
#include "wire/grpc/inference_request.h"

namespace datasentinel {

/// The methods whose messages the session answers itself; `other` ones go to its owner.
enum class GrpcMethod : std::uint8_t {
  other,
  model_infer,
  model_stream_infer,
  evaluate,
  evaluate_batch,
  evaluate_stream,
};

inline constexpr std::string_view kModelInferPath = "/inference.GRPCInferenceService/ModelInfer";
inline constexpr std::string_view kModelStreamInferPath = "/inference.GRPCInferenceService/ModelStreamInfer";
inline constexpr std::string_view kEvaluatePath = "/datasentinel.v1.InferenceService/Evaluate";
inline constexpr std::string_view kEvaluateBatchPath = "/datasentinel.v1.InferenceService/EvaluateBatch";
inline constexpr std::string_view kEvaluateStreamPath = "/datasentinel.v1.InferenceService/EvaluateStream";

/// The method of a `:path`.
[[nodiscard]] GrpcMethod grpc_method(std::string_view path) noexcept;

[[nodiscard]] constexpr bool is_streaming(GrpcMethod method) noexcept {
  return method == GrpcMethod::model_stream_infer || method == GrpcMethod::evaluate_stream;
}

/// Reads a `grpc-timeout` value, e.g. "100m", in seconds. Nothing when it is not valid.
[[nodiscard]] std::optional<double> parse_grpc_timeout(std::string_view text) noexcept;

/// A message of one of the session's own methods, on its way to a reply. Replies keep the messages' order.
struct PendingRequest {
  enum class State : std::uint8_t { inflating, received, scoring, done };

  std::unique_ptr<InferenceRequest> request;  ///< Null while it is scored off the event loop.
  std::chrono::steady_clock::time_point arrived{};
  std::string problem;    ///< Of a streaming method: why the message was refused.
  std::size_t bytes = 0;  ///< About so much memory it holds.
  State state = State::received;
  std::shared_ptr<std::atomic<bool>> cancelled;  ///< Shared with the job while it is scored elsewhere.
};

/// One call: an HTTP/2 stream, and what gRPC says on it.
struct GrpcCall final : Http2Stream {
  using Clock = std::chrono::steady_clock;

  std::size_t index = 0;  ///< Where the session keeps it.
  GrpcMethod method = GrpcMethod::other;
  bool is_post = false;
  bool is_grpc = false;     ///< By its content type.
  bool compresses = false;  ///< Its messages may be compressed.
  GrpcStatus refusal = {};  ///< What is wrong with the headers.
  std::size_t header_bytes = 0;
  std::optional<Clock::time_point> deadline;
  std::optional<Clock::time_point> receive_by;  ///< When the message that has begun must have arrived.
  std::string body;                             ///< The start of a message whose end has not arrived.
  std::string authorization;
  std::string path;                                           ///< Of `other` methods.
  std::vector<std::pair<std::string, std::string>> metadata;  ///< Of `other` methods.
  std::vector<PendingRequest> pending;
  std::size_t pending_bytes = 0;  ///< Held by `pending`, wherever it is scored.
  std::uint64_t answered = 0;     ///< The number of the first of `pending`: so many messages came before it.

  struct HeaderLimits {
    std::size_t max_bytes;
    bool keep_for_admission;  ///< Path and authorization are asked for when the headers have ended.
  };

  /// Takes one header field; `now` is when it came. False when the headers have become far too large.
  [[nodiscard]] bool take_header(std::string_view name, std::string_view value, HeaderLimits limits,
                                 Clock::time_point now);

  /// When it ends if nothing happens before.
  [[nodiscard]] Clock::time_point earliest_deadline() const noexcept {
    return std::min(deadline.value_or(Clock::time_point::max()),
                    receive_by.value_or(Clock::time_point::max()));
  }

  /// What it holds of the connection's memory.
  [[nodiscard]] std::size_t held_bytes() const noexcept { return body.size() + out.size() + pending_bytes; }

  /// As new, but with its memory, unless that is much.
  void recycle() noexcept;
};

/// Appends a length-prefixed message, which `encode` appends.
template <typename Encode>
void append_grpc_message(std::string& out, Encode&& encode) {
  const std::size_t start = out.size();
  out.append(5, '\0');
  encode(out);
  const std::size_t size = out.size() - start - 5;
  for (unsigned i = 0; i < 4; ++i) out[start + 1 + i] = static_cast<char>(size >> (24 - 8 * i));
}

}  // namespace datasentinel
