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
#include "wire/session.h"

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

/// One connection of a gRPC server. It decodes and answers the requests for scores that a turn completes, as
/// one batch. Other calls become events, which the owner answers by `reply` and `finish_call`.
class GrpcSession : public WireSession {
 public:
  using WireSession::WireSession;

  /// Appends what is to be sent after `reply`, `finish_call`, `deliver` or `expire`.
  virtual void take_output(std::string& out) = 0;

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

  /// Calls that are not fully answered.
  [[nodiscard]] virtual std::size_t open_calls() const noexcept = 0;
};

[[nodiscard]] std::unique_ptr<GrpcSession> make_grpc_session(std::shared_ptr<GrpcService> service);

}  // namespace datasentinel
