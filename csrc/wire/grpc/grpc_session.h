#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "serving/memory_budget.h"
#include "wire/grpc/grpc_call.h"
#include "wire/grpc/grpc_service.h"
#include "wire/grpc/http2_connection.h"
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
///
/// One thread at a time.
class GrpcSession final : public WireSession, private Http2Handler {
 public:
  /// Throws std::bad_alloc or Error{backend_failure}.
  explicit GrpcSession(std::shared_ptr<GrpcService> service);
  ~GrpcSession() override;

  void feed(std::string_view bytes, std::string& out) override;

  /// Calls that cannot be complete any more are given up.
  void finish(std::string& out) override;

  /// Appends what is to be sent after `reply`, `finish_call`, `deliver` or `expire`.
  void take_output(std::string& out);

  [[nodiscard]] std::vector<GrpcEvent> take_events() { return std::exchange(events_, {}); }

  /// Sends one message on a call that was left to the owner. A call that is over takes none.
  void reply(std::int32_t id, std::string_view message);

  /// Ends a call; also one of the session's own.
  void finish_call(std::int32_t id, int status, std::string_view message);

  /// Hands back a message that came compressed.
  void deliver(std::int32_t id, std::string_view message);

  /// Ends every call with this status: the connection is about to be cut off.
  void abandon_calls(int status, std::string_view message);

  /// Ends the calls whose deadline has passed, or whose message takes too long to arrive.
  void expire();

  /// Seconds until `expire` has something to do, or nothing.
  [[nodiscard]] std::optional<double> next_deadline_s();

  /// Asks the peer to send no more calls; the second time, refuses new ones. Those under way go on.
  void drain();

  /// Calls that are not fully answered.
  [[nodiscard]] std::size_t open_calls() const noexcept;

  [[nodiscard]] bool unfinished() const noexcept override { return !input_.empty() || more_output_; }
  /// An event is to be taken, or a deadline to be watched.
  [[nodiscard]] bool needs_attention() const noexcept override {
    return !events_.empty() || next_deadline() < watched_;
  }
  /// The connection's greeting, or a call's headers, have begun to arrive, and not ended.
  [[nodiscard]] bool mid_message() const noexcept override { return connection_.mid_frame(); }
  /// No request, message or reply has moved, whatever pings and the like came.
  [[nodiscard]] bool idle() const noexcept override { return connection_.progress() == progress_before_; }
  [[nodiscard]] bool closed() const noexcept override { return connection_.closed(); }

 private:
  using Clock = GrpcCall::Clock;
  using Seconds = std::chrono::duration<double>;
  using State = PendingRequest::State;

  /// A message of one of the session's own methods that can be scored.
  struct Ready {
    GrpcCall* call;
    std::uint64_t sequence;

    [[nodiscard]] PendingRequest& pending() const noexcept {
      return call->pending[sequence - call->answered];
    }
  };

  // What happens on the connection.
  Http2Stream& open_stream(std::int32_t id) override;
  bool on_header(Http2Stream& stream, std::string_view name, std::string_view value) override;
  void on_headers_end(Http2Stream& stream) override;
  void on_data(Http2Stream& stream, std::string_view data) override;
  void on_end(Http2Stream& stream) override;
  void close_stream(Http2Stream& stream) override;

  // Calls, grpc_session.cpp.
  [[nodiscard]] bool accepts(GrpcCall& call, char flag, std::size_t size);
  void drop_late();
  void end_drained(GrpcCall& call);
  void end_call(GrpcCall& call, int status, std::string_view message);
  void fail(GrpcCall& call, const GrpcStatus& status);
  void refuse(GrpcCall& call, const GrpcStatus& status);
  void forget_requests(GrpcCall& call);
  void drop_body(GrpcCall& call);
  void await_message(GrpcCall& call);
  [[nodiscard]] Clock::time_point next_deadline() const noexcept;
  GrpcEvent& add_event(GrpcEvent::Kind kind, const GrpcCall& call);
  [[nodiscard]] GrpcCall* find(std::int32_t id) const noexcept {
    return static_cast<GrpcCall*>(connection_.find(id));
  }

  // From their messages to replies, grpc_requests.cpp.
  void on_message(GrpcCall& call, bool compressed, std::string_view message);
  void take_message(GrpcCall& call, PendingRequest& pending, std::string_view message);
  void end(GrpcCall& call);
  void score_ready();
  void park(GrpcCall& call, PendingRequest& pending, std::uint64_t sequence);
  void on_scored(std::unique_ptr<ScoringJob> job) override;
  void answer(GrpcCall& call);
  void count(const PendingRequest& pending);
  [[nodiscard]] bool append_reply(GrpcCall& call, PendingRequest& pending);
  bool report(const GrpcCall& call, const Error& failure);

  std::shared_ptr<GrpcService> service_;
  Http2Connection connection_;
  std::uint64_t progress_before_ = 0;             ///< The last turn.
  std::vector<std::unique_ptr<GrpcCall>> calls_;  ///< The streams that are open.
  std::vector<std::unique_ptr<GrpcCall>> spares_;
  std::vector<GrpcEvent> events_;
  std::vector<Ready> ready_;
  std::vector<Ready> scored_;
  std::vector<ScoringTask*> tasks_;
  std::string input_;            ///< Received, and not come to yet.
  MemoryCharge charge_;          ///< What was held when output was last taken.
  std::size_t grown_bytes_ = 0;  ///< What has been added since then.
  std::size_t allowance_ = 0;    ///< So much may be held; beyond it messages are refused.
  bool more_output_ = false;
  bool input_ended_ = false;
  bool draining_ = false;  ///< The peer knows that the connection will close.
  bool refusing_ = false;  ///< New calls are refused.
  Clock::time_point now_{};
  Clock::time_point watched_ = Clock::time_point::max();
};

}  // namespace datasentinel
