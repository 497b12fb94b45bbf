#include "wire/grpc/grpc_session.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "serving/memory_budget.h"
#include "serving/turn.h"
#include "wire/grpc/grpc_call.h"
#include "wire/grpc/grpc_codec.h"
#include "wire/grpc/http2_connection.h"

namespace datasentinel {
namespace {

using Clock = GrpcCall::Clock;
using State = PendingRequest::State;

constexpr std::size_t kPrefixBytes = 5;
// A message gets all of its memory at once when so much of it has come: then its announced size is believed.
constexpr std::size_t kBelievedBytes = std::size_t{16} << 10;
// In one turn so much is read between two looks at the clock, and about so much is written.
constexpr std::size_t kPieceBytes = std::size_t{8} << 10;
constexpr std::size_t kOutputBytes = std::size_t{256} << 10;
// More than these end a turn: each is work of Python's.
constexpr std::size_t kMaxEvents = 32;
// Of methods that carry no rows.
constexpr std::size_t kMaxOtherMessageBytes = std::size_t{64} << 10;
constexpr std::size_t kSpareCalls = 16;

const GrpcStatus kLate{GrpcCode::deadline_exceeded, "the deadline has passed"};
const GrpcStatus kSlow{GrpcCode::deadline_exceeded, "the message took too long to arrive"};

double seconds(Clock::duration duration) noexcept { return std::chrono::duration<double>(duration).count(); }

std::size_t message_size(std::string_view prefix) noexcept {
  std::size_t size = 0;
  for (const char c : prefix.substr(1, 4)) size = (size << 8) | static_cast<unsigned char>(c);
  return size;
}

class Http2GrpcSession final : public GrpcSession, private Http2Handler {
 public:
  explicit Http2GrpcSession(std::shared_ptr<GrpcService> service)
      : GrpcSession(service->inference()),
        service_(std::move(service)),
        connection_(service_->http2(), *this,
                    {.max_streams = service_->limits().max_streams,
                     .max_header_bytes = service_->limits().max_header_bytes,
                     .min_ping_interval = service_->limits().min_ping_interval}),
        charge_(inference().memory()) {}

  ~Http2GrpcSession() override {
    for (const auto& call : calls_) forget_requests(*call);
  }

  void feed(std::string_view bytes, std::string& out) override {
    const Turn turn;
    now_ = turn.started();
    progress_before_ = connection_.progress();
    allowance_ = std::min(service_->limits().max_buffered_bytes, inference().memory()->allowance());
    std::string kept;
    if (!input_.empty()) {
      kept = std::exchange(input_, {});
      kept.append(bytes);
      bytes = kept;
    }
    while (!bytes.empty() && !connection_.closed()) {
      const std::string_view piece = bytes.substr(0, kPieceBytes);
      connection_.receive(piece);
      bytes.remove_prefix(piece.size());
      if (bytes.empty() || turn.over() || events_.size() > kMaxEvents) break;
    }
    if (!connection_.closed()) input_ = bytes;
    score_ready();
    take_output(out);
  }

  bool unfinished() const noexcept override { return !input_.empty() || more_output_; }

  void take_output(std::string& out) override {
    more_output_ = connection_.send(out, kOutputBytes);
    std::size_t held = input_.size();
    for (const auto& call : calls_) held += call->held_bytes();
    charge_.set(held);
    grown_bytes_ = 0;
  }

  /// Calls that cannot be complete any more are given up.
  void finish(std::string& out) override {
    input_ended_ = true;
    std::vector<GrpcCall*> incomplete;
    for (const auto& call : calls_) {
      if (!call->ended && !call->finished) incomplete.push_back(call.get());
    }
    for (GrpcCall* call : incomplete) connection_.reset(*call);
    feed({}, out);
  }

  std::vector<GrpcEvent> take_events() override { return std::exchange(events_, {}); }

  void reply(std::int32_t id, std::string_view message) override {
    GrpcCall* const call = find(id);
    if (call == nullptr || call->finished) return;
    append_grpc_message(call->out, [message](std::string& out) { out.append(message); });
    connection_.push(*call);
  }

  void finish_call(std::int32_t id, int status, std::string_view message) override {
    if (GrpcCall* const call = find(id)) end_call(*call, status, message);
  }

  void deliver(std::int32_t id, std::string_view message) override {
    GrpcCall* const call = find(id);
    if (call == nullptr || call->finished) return;
    const auto waiting = std::ranges::find(call->pending, State::inflating, &PendingRequest::state);
    if (waiting == call->pending.end()) return;
    now_ = Clock::now();
    call->pending_bytes += sizeof(InferenceRequest) + message.size() - waiting->bytes;
    waiting->bytes = sizeof(InferenceRequest) + message.size();
    take_message(*call, *waiting, message);
    if (call->ended && !call->finished) end(*call);
    score_ready();
  }

  void abandon_calls(int status, std::string_view message) override {
    for (const auto& call : calls_) end_call(*call, status, message);
  }

  void expire() override {
    const auto now = Clock::now();
    watched_ = Clock::time_point::max();
    for (const auto& call : calls_) {
      if (call->finished || call->earliest_deadline() > now) continue;
      if (call->method == GrpcMethod::other) add_event(GrpcEvent::Kind::cancel, *call);
      fail(*call, call->deadline && *call->deadline <= now ? kLate : kSlow);
    }
  }

  std::optional<double> next_deadline_s() override {
    watched_ = next_deadline();
    if (watched_ == Clock::time_point::max()) return std::nullopt;
    return std::max(0.0, seconds(watched_ - Clock::now()));
  }

  void drain() override {
    if (!std::exchange(draining_, true)) return connection_.announce_shutdown();
    if (!std::exchange(refusing_, true)) connection_.refuse_new_streams();
    for (const auto& call : calls_) end_drained(*call);
  }

  /// An event is to be taken, or a deadline to be watched.
  bool needs_attention() const noexcept override { return !events_.empty() || next_deadline() < watched_; }

  std::size_t open_calls() const noexcept override {
    // Who has ended its side opens no window any more: what does not fit through it now never will.
    return static_cast<std::size_t>(std::ranges::count_if(calls_, [this](const auto& call) {
      return !call->finished || (call->unsent() != 0 && !input_ended_);
    }));
  }

  /// The connection's greeting, or a call's headers, have begun to arrive, and not ended.
  bool mid_message() const noexcept override { return connection_.mid_frame(); }

  /// No request, message or reply has moved, whatever pings and the like came.
  bool idle() const noexcept override { return connection_.progress() == progress_before_; }

  bool closed() const noexcept override { return connection_.closed(); }

 private:
  /// A message of one of the session's own methods that can be scored.
  struct Ready {
    GrpcCall* call;
    std::uint64_t sequence;
  };

  // ------------------------------------------------------------------------------- what the connection tells

  Http2Stream& open_stream(std::int32_t id) override {
    if (spares_.empty()) spares_.push_back(std::make_unique<GrpcCall>());
    spares_.back()->id = id;
    spares_.back()->index = calls_.size();
    calls_.push_back(std::move(spares_.back()));
    spares_.pop_back();
    return *calls_.back();
  }

  bool on_header(Http2Stream& stream, std::string_view name, std::string_view value) override {
    return static_cast<GrpcCall&>(stream).take_header(name, value,
                                                      {.max_bytes = service_->limits().max_header_bytes,
                                                       .keep_for_admission = service_->admit() != nullptr},
                                                      now_);
  }

  void on_headers_end(Http2Stream& stream) override {
    auto& call = static_cast<GrpcCall&>(stream);
    if (!call.is_grpc || !call.is_post) return connection_.refuse(call);
    if (!call.refusal.ok()) return fail(call, call.refusal);
    if (service_->admit()) {
      if (const GrpcStatus refusal = service_->admit()(call.path, call.authorization); !refusal.ok()) {
        return fail(call, refusal);
      }
    }
    if (!is_streaming(call.method)) await_message(call);
    if (call.method != GrpcMethod::other) return;
    GrpcEvent& event = add_event(GrpcEvent::Kind::call, call);
    event.text = std::move(call.path);
    event.metadata = std::move(call.metadata);
  }

  void on_data(Http2Stream& stream, std::string_view data) override {
    auto& call = static_cast<GrpcCall&>(stream);
    if (call.finished) return;
    const bool buffered = !call.body.empty();
    std::string_view rest = data;
    if (buffered) {
      call.body.append(data);
      grown_bytes_ += data.size();
      rest = call.body;
    }
    while (rest.size() >= kPrefixBytes) {
      const std::size_t size = message_size(rest);
      if (!accepts(call, rest[0], size)) return;
      if (rest.size() - kPrefixBytes < size) break;
      on_message(call, rest[0] != 0, rest.substr(kPrefixBytes, size));
      if (call.finished) return;
      rest.remove_prefix(kPrefixBytes + size);
    }
    if (!buffered) {
      if (rest.empty()) return;
      await_message(call);
      call.body = rest;
      grown_bytes_ += rest.size();
    } else if (rest.empty()) {
      drop_body(call);
    } else {
      call.body.erase(0, call.body.size() - rest.size());
    }
    if (call.body.size() >= kBelievedBytes) call.body.reserve(kPrefixBytes + message_size(call.body));
  }

  void on_end(Http2Stream& stream) override {
    auto& call = static_cast<GrpcCall&>(stream);
    if (call.finished) return;
    if (!call.body.empty()) return fail(call, {GrpcCode::invalid_argument, "the last message is cut off"});
    end(call);
  }

  void close_stream(Http2Stream& stream) override {
    auto& call = static_cast<GrpcCall&>(stream);
    if (!call.finished && call.method == GrpcMethod::other) add_event(GrpcEvent::Kind::cancel, call);
    forget_requests(call);
    drop_body(call);
    const std::size_t index = call.index;
    std::swap(calls_[index], calls_.back());
    calls_[index]->index = index;
    std::unique_ptr<GrpcCall> closed = std::move(calls_.back());
    calls_.pop_back();
    if (spares_.size() == kSpareCalls) return;
    closed->recycle();
    spares_.push_back(std::move(closed));
  }

  // ------------------------------------------------------------------------------------------------ messages

  /// Whether a message with this prefix may come; otherwise the call has failed.
  bool accepts(GrpcCall& call, char flag, std::size_t size) {
    const GrpcLimits& limits = service_->limits();
    const std::size_t max_bytes = call.method == GrpcMethod::other
                                      ? std::min(limits.max_message_bytes, kMaxOtherMessageBytes)
                                      : limits.max_message_bytes;
    if (size > max_bytes) {
      refuse(call, {GrpcCode::resource_exhausted, "message of " + std::to_string(size) + " bytes; at most " +
                                                      std::to_string(max_bytes) + " are accepted"});
    } else if (flag != 0 && (flag != 1 || !call.compresses)) {
      refuse(call, {GrpcCode::internal, "compressed message without a grpc-encoding"});
    } else if (charge_.bytes() + grown_bytes_ > allowance_) {
      refuse(call, {GrpcCode::resource_exhausted, "too many unread replies and unfinished messages"});
    } else if (call.method != GrpcMethod::other && !is_streaming(call.method) && !call.pending.empty()) {
      refuse(call, {GrpcCode::invalid_argument, "this method takes one message"});
    }
    return !call.finished;
  }

  void on_message(GrpcCall& call, bool compressed, std::string_view message) {
    call.receive_by.reset();
    connection_.on_message();
    if (call.method == GrpcMethod::other) {
      GrpcEvent& event = add_event(GrpcEvent::Kind::message, call);
      event.text = message;
      event.compressed = compressed;
      return;
    }
    PendingRequest& pending = call.pending.emplace_back();
    pending.request = service_->new_request();
    pending.bytes = sizeof(InferenceRequest) + message.size();
    call.pending_bytes += pending.bytes;
    grown_bytes_ += pending.bytes;
    if (compressed) {
      pending.state = State::inflating;
      add_event(GrpcEvent::Kind::inflate, call).text = message;
    } else {
      take_message(call, pending, message);
    }
  }

  /// Decodes a message into `pending`, one of the call's.
  void take_message(GrpcCall& call, PendingRequest& pending, std::string_view message) {
    pending.state = State::received;
    pending.arrived = now_;
    GrpcStatus status = decode_request(call.method, message, service_->models(), service_->limits().max_rows,
                                       *pending.request);
    if (is_streaming(call.method)) {
      if (!status.ok() && call.method == GrpcMethod::evaluate_stream) {
        pending.request->task.failure = Error(ErrorCode::invalid_argument, status.message);
      }
      pending.problem = std::move(status.message);
      ready_.push_back({&call, sequence_of(call, pending)});
    } else if (!status.ok()) {
      if (const auto& model = pending.request->task.model) {
        model->statistics->add(false, std::chrono::nanoseconds::zero());
      }
      refuse(call, status);
    }
  }

  /// The peer has sent everything.
  void end(GrpcCall& call) {
    call.receive_by.reset();
    if (call.method == GrpcMethod::other) {
      add_event(GrpcEvent::Kind::end, call);
    } else if (is_streaming(call.method)) {
      answer(call);
    } else if (call.pending.empty()) {
      refuse(call, {GrpcCode::invalid_argument, "this method takes one message, got none"});
    } else if (call.pending.front().state == State::received) {
      ready_.push_back({&call, call.answered});
    }
  }

  // ------------------------------------------------------------------------------------------------- scoring

  /// Scores what has become ready in this chunk, as one batch, here or in the queue; answers what is done.
  void score_ready() {
    if (ready_.empty()) return;
    tasks_.clear();
    drop_late();
    for (const Ready& ready : ready_) {
      PendingRequest& pending = pending_of(ready);
      pending.state = State::done;
      if (!pending.problem.empty() || pending.request->task.failure) continue;
      pending.state = State::scoring;
      tasks_.push_back(&pending.request->task);
    }
    if (inference().is_long(tasks_)) {
      for (const Ready& ready : ready_) park(*ready.call, pending_of(ready), ready.sequence);
    } else {
      if (!tasks_.empty()) inference().score(tasks_);
      for (const Ready& ready : ready_) pending_of(ready).state = State::done;
    }
    scored_.swap(ready_);
    for (const Ready& ready : scored_) answer(*ready.call);
    scored_.clear();
  }

  /// Ends the calls whose deadline has passed before their rows were scored.
  void drop_late() {
    for (std::size_t i = ready_.size(); i-- > 0;) {
      if (i >= ready_.size()) continue;  // `refuse` took other messages of the same call out, too.
      GrpcCall& call = *ready_[i].call;
      if (call.deadline && *call.deadline <= now_) refuse(call, kLate);
    }
  }

  void park(GrpcCall& call, PendingRequest& pending, std::uint64_t sequence) {
    if (pending.state != State::scoring) return;
    pending.cancelled = std::make_shared<std::atomic<bool>>(false);
    InferenceRequest& request = *pending.request;
    request.connection = number();
    request.call = call.id;
    request.sequence = sequence;
    request.cancelled = pending.cancelled;
    std::unique_ptr<ScoringJob> job = std::move(pending.request);
    if (inference().queue().submit(job)) return;
    pending.request.reset(static_cast<InferenceRequest*>(job.release()));
    pending.state = State::done;
    pending.request->task.failure =
        Error(ErrorCode::resource_exhausted, "the queue is full, try again later");
  }

  void on_scored(std::unique_ptr<ScoringJob> job) override {
    // A session submits nothing but requests of its own.
    std::unique_ptr<InferenceRequest> request(static_cast<InferenceRequest*>(job.release()));
    GrpcCall* const call = find(request->call);
    const std::uint64_t sequence = request->sequence;
    if (call == nullptr || call->finished || sequence - call->answered >= call->pending.size()) {
      return service_->recycle(std::move(request));
    }
    PendingRequest& pending = call->pending[sequence - call->answered];
    pending.request = std::move(request);
    pending.state = State::done;
    answer(*call);
  }

  /// Sends the replies that are done and not behind one that is not.
  void answer(GrpcCall& call) {
    if (call.finished) return;
    std::size_t done = 0;
    for (; done < call.pending.size() && call.pending[done].state == State::done; ++done) {
      PendingRequest& pending = call.pending[done];
      count(pending);
      if (!append_reply(call, pending)) return;
    }
    const auto first = call.pending.begin();
    const auto last = first + static_cast<std::ptrdiff_t>(done);
    for (auto pending = first; pending != last; ++pending) {
      call.pending_bytes -= pending->bytes;
      service_->recycle(std::move(pending->request));
    }
    call.pending.erase(first, last);
    call.answered += done;
    if (call.ended && call.pending.empty()) {
      connection_.finish(call, 0, {});
    } else if (done != 0) {
      connection_.push(call);
      if (refusing_) end_drained(call);
    }
  }

  /// Ends a stream between two messages: nobody knows when its client would.
  void end_drained(GrpcCall& call) {
    if (call.finished || !is_streaming(call.method) || !call.pending.empty() || !call.body.empty()) return;
    fail(call, {GrpcCode::unavailable, "the server is draining; connect again"});
  }

  void count(const PendingRequest& pending) {
    const InferenceRequest& request = *pending.request;
    const ScoringTask& task = request.task;
    GrpcCode code = GrpcCode::ok;
    if (task.failure) {
      code = grpc_code(task.failure->code());
    } else if (!pending.problem.empty()) {
      code = GrpcCode::invalid_argument;
    }
    const bool good = code == GrpcCode::ok;
    const Clock::duration took = Clock::now() - pending.arrived;
    service_->counts().add(good ? task.rows : 0, good ? task.count_anomalies() : 0, static_cast<int>(code),
                           seconds(took));
    if (task.model != nullptr) {
      task.model->statistics->add(good, std::chrono::duration_cast<std::chrono::nanoseconds>(took),
                                  task.waited);
    }
  }

  /// False when the call has failed instead. A streaming call never fails for one message's sake.
  bool append_reply(GrpcCall& call, PendingRequest& pending) {
    const InferenceRequest& request = *pending.request;
    if (const auto& failure = request.task.failure) {
      const bool is_ours = report(call, *failure) || failure->code() == ErrorCode::resource_exhausted;
      if (call.method == GrpcMethod::model_infer || (is_ours && !is_streaming(call.method))) {
        fail(call, {grpc_code(failure->code()), describe_failure(call.method, *failure)});
        return false;
      }
      pending.problem = describe_failure(call.method, *failure);
    }
    append_grpc_message(call.out,
                        [&](std::string& out) { encode_reply(call.method, request, pending.problem, out); });
    return true;
  }

  /// Tells the owner of a fault of ours, for the log; whether it is one.
  bool report(const GrpcCall& call, const Error& failure) {
    const bool is_ours =
        grpc_code(failure.code()) == GrpcCode::internal || failure.code() == ErrorCode::out_of_memory;
    if (is_ours) add_event(GrpcEvent::Kind::failure, call).text = failure.what();
    return is_ours;
  }

  // --------------------------------------------------------------------------------------------------- calls

  GrpcCall* find(std::int32_t id) const noexcept { return static_cast<GrpcCall*>(connection_.find(id)); }

  static std::uint64_t sequence_of(const GrpcCall& call, const PendingRequest& pending) noexcept {
    return call.answered + static_cast<std::uint64_t>(&pending - call.pending.data());
  }

  static PendingRequest& pending_of(const Ready& ready) noexcept {
    return ready.call->pending[ready.sequence - ready.call->answered];
  }

  void end_call(GrpcCall& call, int status, std::string_view message) {
    if (call.finished) return;
    forget_requests(call);
    drop_body(call);
    connection_.finish(call, status, message);
  }

  void fail(GrpcCall& call, const GrpcStatus& status) {
    end_call(call, static_cast<int>(status.code), status.message);
  }

  /// Fails a call whose request is not even scored.
  void refuse(GrpcCall& call, const GrpcStatus& status) {
    if (call.method != GrpcMethod::other)
      service_->counts().add(0, 0, static_cast<int>(status.code), seconds(Clock::now() - now_));
    if (call.method == GrpcMethod::other) add_event(GrpcEvent::Kind::cancel, call);
    fail(call, status);
  }

  void forget_requests(GrpcCall& call) {
    std::erase_if(ready_, [&call](const Ready& ready) { return ready.call == &call; });
    for (PendingRequest& pending : call.pending) {
      if (pending.cancelled != nullptr) pending.cancelled->store(true, std::memory_order_relaxed);
      service_->recycle(std::move(pending.request));
    }
    call.pending.clear();
    call.pending_bytes = 0;
  }

  void drop_body(GrpcCall& call) {
    call.receive_by.reset();
    empty_buffer(call.body);
  }

  /// A message has begun to arrive, or must come.
  void await_message(GrpcCall& call) {
    const auto timeout = service_->limits().receive_timeout;
    if (timeout.count() > 0 && !call.ended) {
      call.receive_by = now_ + std::chrono::duration_cast<Clock::duration>(timeout);
    }
  }

  Clock::time_point next_deadline() const noexcept {
    auto next = Clock::time_point::max();
    for (const auto& call : calls_) {
      if (!call->finished) next = std::min(next, call->earliest_deadline());
    }
    return next;
  }

  GrpcEvent& add_event(GrpcEvent::Kind kind, const GrpcCall& call) {
    GrpcEvent& event = events_.emplace_back();
    event.kind = kind;
    event.call = call.id;
    return event;
  }

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

}  // namespace

std::unique_ptr<GrpcSession> make_grpc_session(std::shared_ptr<GrpcService> service) {
  return std::make_unique<Http2GrpcSession>(std::move(service));
}

}  // namespace datasentinel
