#include "wire/grpc/grpc_session.h"

#include <algorithm>

#include "serving/turn.h"

namespace datasentinel {
namespace {

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

std::size_t message_size(std::string_view prefix) noexcept {
  std::size_t size = 0;
  for (const char c : prefix.substr(1, 4)) size = (size << 8) | static_cast<unsigned char>(c);
  return size;
}

}  // namespace

GrpcSession::GrpcSession(std::shared_ptr<GrpcService> service)
    : WireSession(service->inference()),
      service_(std::move(service)),
      connection_(service_->http2(), *this,
                  {.max_streams = service_->limits().max_streams,
                   .max_header_bytes = service_->limits().max_header_bytes,
                   .min_ping_interval = service_->limits().min_ping_interval}),
      charge_(inference().memory()) {}

GrpcSession::~GrpcSession() {
  for (const auto& call : calls_) forget_requests(*call);
}

void GrpcSession::feed(std::string_view bytes, std::string& out) {
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

void GrpcSession::take_output(std::string& out) {
  more_output_ = connection_.send(out, kOutputBytes);
  std::size_t held = input_.size();
  for (const auto& call : calls_) held += call->held_bytes();
  charge_.set(held);
  grown_bytes_ = 0;
}

void GrpcSession::finish(std::string& out) {
  input_ended_ = true;
  std::vector<GrpcCall*> incomplete;
  for (const auto& call : calls_) {
    if (!call->ended && !call->finished) incomplete.push_back(call.get());
  }
  for (GrpcCall* call : incomplete) connection_.reset(*call);
  feed({}, out);
}

void GrpcSession::reply(std::int32_t id, std::string_view message) {
  GrpcCall* const call = find(id);
  if (call == nullptr || call->finished) return;
  append_grpc_message(call->out, [message](std::string& out) { out.append(message); });
  connection_.push(*call);
}

void GrpcSession::finish_call(std::int32_t id, int status, std::string_view message) {
  if (GrpcCall* const call = find(id)) end_call(*call, status, message);
}

void GrpcSession::deliver(std::int32_t id, std::string_view message) {
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

void GrpcSession::abandon_calls(int status, std::string_view message) {
  for (const auto& call : calls_) end_call(*call, status, message);
}

void GrpcSession::expire() {
  const auto now = Clock::now();
  watched_ = Clock::time_point::max();
  for (const auto& call : calls_) {
    if (call->finished || call->earliest_deadline() > now) continue;
    if (call->method == GrpcMethod::other) add_event(GrpcEvent::Kind::cancel, *call);
    fail(*call, call->deadline && *call->deadline <= now ? kLate : kSlow);
  }
}

std::optional<double> GrpcSession::next_deadline_s() {
  watched_ = next_deadline();
  if (watched_ == Clock::time_point::max()) return std::nullopt;
  return std::max(0.0, Seconds(watched_ - Clock::now()).count());
}

void GrpcSession::drain() {
  if (!std::exchange(draining_, true)) return connection_.announce_shutdown();
  if (!std::exchange(refusing_, true)) connection_.refuse_new_streams();
  for (const auto& call : calls_) end_drained(*call);
}

std::size_t GrpcSession::open_calls() const noexcept {
  // A peer that has ended its side opens no window any more: what does not fit through it now never will.
  return static_cast<std::size_t>(std::ranges::count_if(calls_, [this](const auto& call) {
    return !call->finished || (call->unsent() != 0 && !input_ended_);
  }));
}

// ---------------------------------------------------------------------------- what happens on the connection

Http2Stream& GrpcSession::open_stream(std::int32_t id) {
  if (spares_.empty()) spares_.push_back(std::make_unique<GrpcCall>());
  spares_.back()->id = id;
  spares_.back()->index = calls_.size();
  calls_.push_back(std::move(spares_.back()));
  spares_.pop_back();
  return *calls_.back();
}

bool GrpcSession::on_header(Http2Stream& stream, std::string_view name, std::string_view value) {
  return static_cast<GrpcCall&>(stream).take_header(
      name, value,
      {.max_bytes = service_->limits().max_header_bytes, .keep_for_admission = service_->admit() != nullptr},
      now_);
}

void GrpcSession::on_headers_end(Http2Stream& stream) {
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

void GrpcSession::on_data(Http2Stream& stream, std::string_view data) {
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

void GrpcSession::on_end(Http2Stream& stream) {
  auto& call = static_cast<GrpcCall&>(stream);
  if (call.finished) return;
  if (!call.body.empty()) return fail(call, {GrpcCode::invalid_argument, "the last message is cut off"});
  end(call);
}

void GrpcSession::close_stream(Http2Stream& stream) {
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

// ----------------------------------------------------------------------------------------------------- calls

/// Whether a message with this prefix may come; otherwise the call has failed.
bool GrpcSession::accepts(GrpcCall& call, char flag, std::size_t size) {
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

/// Ends the calls whose deadline has passed before their rows were scored.
void GrpcSession::drop_late() {
  for (std::size_t i = ready_.size(); i-- > 0;) {
    if (i >= ready_.size()) continue;  // `refuse` took other messages of the same call out, too.
    GrpcCall& call = *ready_[i].call;
    if (call.deadline && *call.deadline <= now_) refuse(call, kLate);
  }
}

/// Ends a stream between two messages: its client might never do so.
void GrpcSession::end_drained(GrpcCall& call) {
  if (call.finished || !is_streaming(call.method) || !call.pending.empty() || !call.body.empty()) return;
  fail(call, {GrpcCode::unavailable, "the server is draining; connect again"});
}

void GrpcSession::end_call(GrpcCall& call, int status, std::string_view message) {
  if (call.finished) return;
  forget_requests(call);
  drop_body(call);
  connection_.finish(call, status, message);
}

void GrpcSession::fail(GrpcCall& call, const GrpcStatus& status) {
  end_call(call, static_cast<int>(status.code), status.message);
}

/// Fails a call whose request is not even scored.
void GrpcSession::refuse(GrpcCall& call, const GrpcStatus& status) {
  if (call.method != GrpcMethod::other)
    service_->counts().add(0, 0, static_cast<int>(status.code), Seconds(Clock::now() - now_).count());
  if (call.method == GrpcMethod::other) add_event(GrpcEvent::Kind::cancel, call);
  fail(call, status);
}

void GrpcSession::forget_requests(GrpcCall& call) {
  std::erase_if(ready_, [&call](const Ready& ready) { return ready.call == &call; });
  for (PendingRequest& pending : call.pending) {
    if (pending.cancelled != nullptr) pending.cancelled->store(true, std::memory_order_relaxed);
    service_->recycle(std::move(pending.request));
  }
  call.pending.clear();
  call.pending_bytes = 0;
}

void GrpcSession::drop_body(GrpcCall& call) {
  call.receive_by.reset();
  empty_buffer(call.body);
}

/// A message has begun to arrive, or must come.
void GrpcSession::await_message(GrpcCall& call) {
  const auto timeout = service_->limits().receive_timeout;
  if (timeout.count() > 0 && !call.ended) {
    call.receive_by = now_ + std::chrono::duration_cast<Clock::duration>(timeout);
  }
}

GrpcCall::Clock::time_point GrpcSession::next_deadline() const noexcept {
  auto next = Clock::time_point::max();
  for (const auto& call : calls_) {
    if (!call->finished) next = std::min(next, call->earliest_deadline());
  }
  return next;
}

GrpcEvent& GrpcSession::add_event(GrpcEvent::Kind kind, const GrpcCall& call) {
  GrpcEvent& event = events_.emplace_back();
  event.kind = kind;
  event.call = call.id;
  return event;
}

}  // namespace datasentinel
