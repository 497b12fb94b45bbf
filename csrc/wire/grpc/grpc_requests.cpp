// The answering half of GrpcSession: from the messages of its own methods to their replies.
#include <algorithm>
#include <atomic>

#include "wire/grpc/grpc_codec.h"
#include "wire/grpc/grpc_session.h"

namespace datasentinel {

namespace {

std::uint64_t sequence_of(const GrpcCall& call, const PendingRequest& pending) noexcept {
  return call.answered + static_cast<std::uint64_t>(&pending - call.pending.data());
}

}  // namespace

void GrpcSession::on_message(GrpcCall& call, bool compressed, std::string_view message) {
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
void GrpcSession::take_message(GrpcCall& call, PendingRequest& pending, std::string_view message) {
  pending.state = State::received;
  pending.arrived = now_;
  GrpcStatus status =
      decode_request(call.method, message, service_->models(), service_->limits().max_rows, *pending.request);
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
void GrpcSession::end(GrpcCall& call) {
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

/// Scores what has become ready in this chunk, as one batch, here or in the queue; answers what is done.
void GrpcSession::score_ready() {
  if (ready_.empty()) return;
  tasks_.clear();
  drop_late();
  for (const Ready& ready : ready_) {
    PendingRequest& pending = ready.pending();
    pending.state = State::done;
    if (!pending.problem.empty() || pending.request->task.failure) continue;
    pending.state = State::scoring;
    tasks_.push_back(&pending.request->task);
  }
  if (inference().is_long(tasks_)) {
    for (const Ready& ready : ready_) park(*ready.call, ready.pending(), ready.sequence);
  } else {
    if (!tasks_.empty()) inference().score(tasks_);
    for (const Ready& ready : ready_) ready.pending().state = State::done;
  }
  scored_.swap(ready_);
  for (const Ready& ready : scored_) answer(*ready.call);
  scored_.clear();
}

void GrpcSession::park(GrpcCall& call, PendingRequest& pending, std::uint64_t sequence) {
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
  pending.request->task.failure = Error(ErrorCode::resource_exhausted, "the queue is full, try again later");
}

void GrpcSession::on_scored(std::unique_ptr<ScoringJob> job) {
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
void GrpcSession::answer(GrpcCall& call) {
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

void GrpcSession::count(const PendingRequest& pending) {
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
                         Seconds(took).count());
  if (task.model != nullptr) {
    task.model->statistics->add(good, std::chrono::duration_cast<std::chrono::nanoseconds>(took),
                                task.waited);
  }
}

/// False when the call has failed instead. A streaming call never fails for one message's sake.
bool GrpcSession::append_reply(GrpcCall& call, PendingRequest& pending) {
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

/// Hands a failure that is a fault of ours to the owner, for the log; returns whether it is one.
bool GrpcSession::report(const GrpcCall& call, const Error& failure) {
  const bool is_ours =
      grpc_code(failure.code()) == GrpcCode::internal || failure.code() == ErrorCode::out_of_memory;
  if (is_ours) add_event(GrpcEvent::Kind::failure, call).text = failure.what();
  return is_ours;
}

}  // namespace datasentinel
