#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "wire/grpc/grpc_service.h"

namespace datasentinel {

/// Something that the session leaves to its owner: a call of a method that it does not answer itself, or
/// anything that one of its own cannot do (a compressed message, reasons for a score).
struct GrpcEvent {
  enum class Kind : std::uint8_t {
    call,     ///< A call begins: `text` is the method's path.
    message,  ///< A message of the call, in `text`.
    end,      ///< The peer has sent all of its messages.
    cancel,   ///< The call is over, and nobody waits for its answer.
    inflate,  ///< `text` is a compressed message of one of the session's own methods, for `deliver`.
    failure,  ///< A fault of ours, in `text`, for the log.
  };

  Kind kind = Kind::call;
  std::int32_t call = 0;
  bool compressed = false;
  std::string text = {};
  std::vector<std::pair<std::string, std::string>> metadata = {};
};

/// One connection of a gRPC server: bytes in, reply bytes out, no sockets.
///
/// `feed` decodes, scores and answers the requests for scores that the chunk completes, as one batch. Other
/// calls become events, which the owner answers by `reply` and `finish_call`.
///
/// One thread at a time.
class GrpcSession {
 public:
  GrpcSession() = default;
  GrpcSession(const GrpcSession&) = delete;
  GrpcSession& operator=(const GrpcSession&) = delete;
  virtual ~GrpcSession() = default;

  /// Takes the next bytes of the stream, and a turn of about a millisecond; appends what is to be sent. What
  /// the turn does not come to is kept for the next one.
  virtual void feed(std::string_view bytes, std::string& out) = 0;

  /// Whether `feed` has more to do, or to send, without more bytes.
  [[nodiscard]] virtual bool unfinished() const noexcept = 0;

  /// Appends what is to be sent after `reply`, `finish_call`, `deliver` or `expire`.
  virtual void take_output(std::string& out) = 0;

  /// Takes the end of the peer's side: calls that cannot be complete any more are given up.
  virtual void end_input() = 0;

  [[nodiscard]] virtual std::vector<GrpcEvent> take_events() = 0;

  /// Sends one message on a call that was left to the owner. A call that is over takes none.
  virtual void reply(std::int32_t call, std::string_view message) = 0;

  /// Ends a call; also one of the session's own.
  virtual void finish_call(std::int32_t call, int status, std::string_view message) = 0;

  /// Hands back a message that came compressed.
  virtual void deliver(std::int32_t call, std::string_view message) = 0;

  /// Ends every call with this status: the connection is about to be cut off.
  virtual void abandon_calls(int status, std::string_view message) = 0;

  /// Ends the calls whose deadline has passed, or whose message takes too long to arrive.
  virtual void expire() = 0;

  /// Seconds until `expire` has something to do, or nothing.
  [[nodiscard]] virtual std::optional<double> next_deadline_s() = 0;

  /// Asks the peer to send no more calls; the second time, refuses new ones. Those under way go on.
  virtual void drain() = 0;

  /// Whether there is an event to take, or a deadline to watch.
  [[nodiscard]] virtual bool needs_attention() const noexcept = 0;

  /// Calls that are not fully answered.
  [[nodiscard]] virtual std::size_t open_calls() const noexcept = 0;

  /// Whether the connection's greeting, or a call's headers, have begun to arrive, and not ended.
  [[nodiscard]] virtual bool mid_message() const noexcept = 0;

  /// Grows with every request, message and reply that moves; not with pings and the like.
  [[nodiscard]] virtual std::uint64_t progress() const noexcept = 0;

  /// The number that `GrpcService::collect` gives.
  [[nodiscard]] virtual std::uint64_t number() const noexcept = 0;

  /// Nothing more will be read; the caller closes the connection once everything is written.
  [[nodiscard]] virtual bool closed() const noexcept = 0;
};

[[nodiscard]] std::unique_ptr<GrpcSession> make_grpc_session(std::shared_ptr<GrpcService> service);

}  // namespace datasentinel
