#include "wire/http/http_session.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "core/error.h"
#include "wire/http/http_status.h"
#include "wire/http/json_reader.h"
#include "wire/wording.h"

namespace datasentinel {
namespace {

/// A turn ends after so many bytes of replies.
constexpr std::size_t kMaxOutputBytes = std::size_t{256} << 10;
constexpr std::size_t kMaxStepBytes = std::size_t{16} << 10;

constexpr std::string_view kRetry = "Retry-After: 1\r\n";
constexpr std::string_view kJson = "Content-Type: application/json\r\n";

void append_number(std::size_t number, std::string& out, int base = 10) {
  std::array<char, 24> text{};
  out.append(text.data(), std::to_chars(text.data(), text.data() + text.size(), number, base).ptr);
}

std::string lower_case(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + ('a' - 'A'));
  }
  return lower;
}

}  // namespace

HttpSession::HttpSession(std::shared_ptr<const HttpService> service)
    : WireSession(service == nullptr ? nullptr : service->inference),
      service_(std::move(service)),
      memory_(inference().memory()) {
  if (service_->counts == nullptr) throw Error(ErrorCode::invalid_argument, "a session needs counts");
}

HttpSession::~HttpSession() {
  if (cancelled_ != nullptr) cancelled_->store(true, std::memory_order_relaxed);
}

void HttpSession::feed(std::string_view bytes, std::string& out) {
  if (state_ == State::body && input_.empty() && !bytes.empty()) {  // A long body is moved once.
    const std::string_view part = bytes.substr(0, body_bytes_ - body_.size());
    if (make_room(part.size())) {
      body_.append(part);
      bytes.remove_prefix(part.size());
    }
  }
  if (state_ != State::closed) input_.append(bytes);
  work();
  if (out.empty()) {
    out.swap(out_);
  } else {
    out.append(out_);
    out_.clear();
  }
}

void HttpSession::finish(std::string& out) {
  ended_ = true;
  feed({}, out);
}

void HttpSession::work() {
  const Turn turn(service_->limits.turn);
  unfinished_ = false;
  while (step()) {
    if (!turn.over() && out_.size() < kMaxOutputBytes) continue;
    // Between the head and the end of a request a step may need no more bytes: its body may be empty.
    unfinished_ = !waiting() && state_ != State::closed && (state_ != State::head || !input_.empty());
    break;
  }
}

/// Does a small part of what there is to do; false where nothing can be done now.
bool HttpSession::step() {
  switch (state_) {
    case State::head: return take_head();
    case State::body: return take_body();
    case State::chunks: return take_chunks();
    case State::skip: return skip_body();
    case State::reply: write_reply(); return true;
    case State::asked:
    case State::queued:
    case State::closed: return false;
  }
  return false;
}

// ------------------------------------------------------------------------------------------------- reading

bool HttpSession::take_head() {
  // Some clients end a body by a line of its own; it is not part of the next request (RFC 9112 2.2).
  std::size_t blank = 0;
  const std::string_view bytes = input_.view();
  while (blank < bytes.size() && (bytes[blank] == '\r' || bytes[blank] == '\n')) ++blank;
  if (blank != 0) {
    input_.consume(blank);
    searched_ = 0;
    return true;
  }
  if (bytes.empty()) {
    if (ended_) state_ = State::closed;
    return false;
  }
  const std::size_t end = find_end_of_head(bytes, searched_);
  if (std::min(end, bytes.size()) > service_->limits.max_header_bytes) {
    refuse({.status = 431,
            .reason = "head longer than " + std::to_string(service_->limits.max_header_bytes) + " bytes"});
    return true;
  }
  if (end == std::string_view::npos) {
    searched_ = bytes.size();
    if (ended_) refuse({.status = 400, .reason = "the request ends in the middle of its head"});
    return ended_;
  }
  started_ = Turn::Clock::now();
  searched_ = 0;
  head_.clear();
  if (const auto problem = read_head(bytes.substr(0, end), head_)) {
    refuse(*problem);
    return true;
  }
  begin(head_);
  if (state_ != State::closed && !input_.empty()) input_.consume(end);
  return true;
}

void HttpSession::begin(const HttpHead& head) {
  const HttpLimits& limits = service_->limits;
  keep_alive_ = head.keep_alive;
  old_ = head.old;
  without_body_ = head.method == "HEAD";
  body_bytes_ = head.content_bytes.value_or(0);
  chunks_ = {};
  const auto target = head.method == "POST" ? read_infer_path(head.path()) : std::nullopt;
  is_inference_ = target.has_value();
  if (target) model_ = *target;
  bool may_pass = true;
  if (is_inference_) {
    may_pass = !service_->authorize || service_->authorize(head.find("authorization"));
    json_bytes_.reset();
    if (const auto text = head.find("inference-header-content-length")) {
      json_bytes_ = read_size(*text);
      if (!json_bytes_) {
        return refuse(
            {.reason = "Inference-Header-Content-Length: expected a number of bytes, got " + quoted(*text)});
      }
    }
  }
  const auto encoding = is_inference_ && may_pass ? head.find("content-encoding") : std::nullopt;
  event_ = {};
  event_.compressed = encoding && !equal_ignoring_case(*encoding, "identity");
  if (!is_inference_ || !may_pass || event_.compressed) {
    event_.method = head.method;
    event_.target = head.target;
    for (const auto& [name, value] : head.fields) event_.fields.emplace_back(lower_case(name), value);
  }
  max_body_bytes_ = is_inference_ ? limits.max_body_bytes : limits.max_other_body_bytes;
  if (body_bytes_ > max_body_bytes_) {
    return refuse(
        {.status = 413, .reason = "body longer than " + std::to_string(max_body_bytes_) + " bytes"});
  }
  if (!may_pass && !head.chunked) {
    is_inference_ = false;
    state_ = State::skip;
  } else {
    if (!may_pass) max_body_bytes_ = limits.max_other_body_bytes;
    is_inference_ = is_inference_ && may_pass;
    state_ = head.chunked ? State::chunks : State::body;
  }
  if (head.expects_continue && (head.chunked || body_bytes_ != 0)) out_ += "HTTP/1.1 100 Continue\r\n\r\n";
}

/// Lets the body grow by so many bytes, or refuses the request.
bool HttpSession::make_room(std::size_t bytes) {
  const std::size_t needed = body_.size() + bytes;
  if (needed <= body_.capacity()) return true;
  const std::size_t capacity = std::max(needed, std::min(2 * body_.capacity(), max_body_bytes_));
  if (capacity > kOwnBytes && !memory_.resize(capacity + compressed_bytes_)) {
    refuse({.status = 503, .reason = "the server's memory for requests is full, try again later"});
    return false;
  }
  body_.reserve(capacity);
  return true;
}

bool HttpSession::take_body() {
  const std::string_view bytes = input_.view();
  const std::size_t missing = body_bytes_ - body_.size();
  if (bytes.size() < missing) {
    if (ended_) {
      refuse({.status = 400, .reason = "the request ends in the middle of its body"});
      return true;
    }
    if (bytes.size() < kMaxStepBytes) return false;  // It may be whole the next time, and need no move.
    if (!make_room(bytes.size())) return true;
    body_.append(bytes);
    input_.clear();
    return true;
  }
  if (body_.empty()) {
    const std::size_t size = body_bytes_;
    bytes_in_use_ = size;
    dispatch(bytes.substr(0, size));
    bytes_in_use_ = 0;
    input_.consume(size);
    return true;
  }
  if (!make_room(missing)) return true;
  body_.append(bytes.substr(0, missing));
  input_.consume(missing);
  dispatch(body_);
  return true;
}

bool HttpSession::take_chunks() {
  if (input_.empty()) {
    if (ended_) refuse({.status = 400, .reason = "the request ends in the middle of its body"});
    return ended_;
  }
  const std::string_view bytes = input_.view().substr(0, kMaxStepBytes);
  if (!make_room(bytes.size())) return true;
  std::string_view rest = bytes;
  const auto problem = chunks_.read(rest, body_);
  input_.consume(bytes.size() - rest.size());
  if (problem) {
    refuse(*problem);
  } else if (chunks_.announced_bytes() > max_body_bytes_) {
    refuse({.status = 413, .reason = "body longer than " + std::to_string(max_body_bytes_) + " bytes"});
  } else if (chunks_.done()) {
    dispatch(body_);
  }
  return true;
}

bool HttpSession::skip_body() {
  const std::size_t size = std::min(body_bytes_, input_.size());
  input_.consume(size);
  body_bytes_ -= size;
  if (body_bytes_ == 0) {
    dispatch({});
    return true;
  }
  if (ended_) refuse({.status = 400, .reason = "the request ends in the middle of its body"});
  return ended_;
}

// ----------------------------------------------------------------------------------------------- answering

void HttpSession::dispatch(std::string_view body) {
  if (is_inference_ && !event_.compressed) return infer(body);
  if (body.data() == body_.data()) {
    event_.body = std::move(body_);
    body_ = {};
  } else {
    event_.body = body;
  }
  compressed_bytes_ = event_.compressed ? event_.body.size() : 0;
  asking_ = true;
  state_ = State::asked;
}

void HttpSession::deliver(std::string_view piece, bool is_last) {
  if (state_ != State::asked || !is_inference_ || !make_room(piece.size())) return;
  body_.append(piece);
  if (is_last) infer(body_);
}

void HttpSession::respond(int status, std::string_view fields, std::string body) {
  if (state_ != State::asked) return;
  count(status, 0, 0);
  begin_reply(status, fields, body.size());
  reply_body_ = std::move(body);
}

void HttpSession::infer(std::string_view body) {
  const auto model = inference().models().find(model_.name, model_.version);
  if (model == nullptr) {
    return reply_error(404, describe_missing_model(model_.name, model_.version));
  }
  auto request = std::make_unique<RestRequest>();
  request->task.model = model;
  request->json_bytes = json_bytes_;
  request->max_rows = service_->limits.max_rows;
  request->body_bytes = body.size();
  request->memory = MemoryCharge(inference().memory());
  if (is_long(*model, body.size())) {
    request->needs_preparation = true;
    request->task.rows = std::max<std::size_t>(1, body.size() / (sizeof(float) * model->scorer->input_dim()));
    if (body.data() == body_.data()) {
      std::swap(request->body, body_);
      std::swap(request->memory, memory_);
    } else {
      request->body = body;
    }
    return submit(std::move(request));
  }
  request->read(body);
  if (!request->task.failure && request->task.rows != 0) {
    ScoringTask* const tasks[] = {&request->task};
    if (inference().is_long(tasks)) return submit(std::move(request));
    inference().score(tasks);
  }
  answer(std::move(request));
}

/// Whether a request with so many bytes should not hold up others: it takes long, or runs on a device.
bool HttpSession::is_long(const ServedModel& model, std::size_t body_bytes) const {
  // JSON has more bytes a row than this, but never fewer than half as many.
  const std::size_t rows = std::max<std::size_t>(1, body_bytes / (sizeof(float) * model.scorer->input_dim()));
  if (model.scorer->session().on_device(rows)) return true;
  const double expected_us = model.rest_cost.expected_us(body_bytes);
  constexpr double kUsPerByte = 0.005;  // A guess, until a request has told.
  return (expected_us > 0 ? expected_us : kUsPerByte * static_cast<double>(body_bytes)) >
         inference().limits().max_inline_us;
}

void HttpSession::submit(std::unique_ptr<RestRequest> request) {
  cancelled_ = std::make_shared<std::atomic<bool>>(false);
  request->connection = number();
  request->cancelled = cancelled_;
  std::unique_ptr<ScoringJob> job = std::move(request);
  if (inference().queue().submit(job)) {
    state_ = State::queued;
    return;
  }
  reply_error(503, "too many rows wait to be scored", kRetry);
}

void HttpSession::on_scored(std::unique_ptr<ScoringJob> job) {
  // A session submits nothing but requests of its own.
  answer(std::unique_ptr<RestRequest>(static_cast<RestRequest*>(job.release())));
}

void HttpSession::answer(std::unique_ptr<RestRequest> request) {
  const ScoringTask& task = request->task;
  const bool good = !task.failure;
  const auto took = Turn::Clock::now() - started_;
  task.model->statistics->add(good, took, task.waited);
  if (!good) {
    const int status = http_status(task.failure->code());
    std::string reason = task.failure->what();
    if (request->is_read && task.failure->code() == ErrorCode::invalid_argument) {
      reason = "input 'input': " + reason;
    }
    if (status == 500) failure_ = reason;
    return reply_error(status, reason, status == 503 ? kRetry : std::string_view());
  }
  const std::chrono::duration<double, std::micro> worked = took - task.waited;
  task.model->rest_cost.add(request->body_bytes, worked.count());
  count(200, task.rows, task.count_anomalies());
  reply_ = std::make_unique<RestReply>(std::move(request));
  std::string fields;
  if (const auto json_bytes = reply_->json_bytes()) {
    fields = "Content-Type: application/octet-stream\r\nInference-Header-Content-Length: ";
    append_number(*json_bytes, fields);
    fields += "\r\n";
  } else {
    fields = kJson;
  }
  begin_reply(200, fields, reply_->body_bytes());
}

/// Answers what cannot be read any further: the connection ends.
void HttpSession::refuse(const HttpProblem& problem) {
  keep_alive_ = false;
  input_.clear();
  if (Turn::Clock::time_point() == started_) started_ = Turn::Clock::now();
  reply_error(problem.status, problem.reason);
}

void HttpSession::reply_error(int status, std::string_view reason, std::string_view fields) {
  count(status, 0, 0);
  std::string body = "{\"error\":";
  append_json_string(reason, body);
  body += "}\n";
  begin_reply(status, std::string(kJson).append(fields), body.size());
  reply_body_ = std::move(body);
}

void HttpSession::count(int status, std::size_t rows, std::size_t anomalies) {
  const std::chrono::duration<double> took = Turn::Clock::now() - started_;
  service_->counts->add(rows, anomalies, status >= 400 ? status : 0, took.count());
}

// ------------------------------------------------------------------------------------------------- writing

void HttpSession::begin_reply(int status, std::string_view fields, std::optional<std::size_t> body_bytes) {
  reply_chunked_ = !body_bytes && !old_;
  if (!body_bytes && old_) keep_alive_ = false;
  out_ += "HTTP/1.1 ";
  append_number(static_cast<std::size_t>(status), out_);
  out_.append(" ").append(reason_phrase(status)).append("\r\n").append(fields);
  if (body_bytes) {
    out_ += "Content-Length: ";
    append_number(*body_bytes, out_);
    out_ += "\r\n";
  } else if (reply_chunked_) {
    out_ += "Transfer-Encoding: chunked\r\n";
  }
  out_.append("Server: ").append(service_->server).append("\r\n");
  // Requests that are here already are still answered.
  if (draining_ && input_.size() == bytes_in_use_) keep_alive_ = false;
  if (!keep_alive_) out_ += "Connection: close\r\n";
  out_ += "\r\n";
  replied_ = 0;
  state_ = State::reply;
}

void HttpSession::write_reply() {
  bool more = false;
  if (reply_ != nullptr) {
    if (!reply_chunked_) {
      more = reply_->write_piece(out_);
    } else {
      std::string piece;
      more = reply_->write_piece(piece);
      append_number(piece.size(), out_, 16);
      out_.append("\r\n").append(piece).append("\r\n");
      if (!more) out_ += "0\r\n\r\n";
    }
  } else if (!without_body_) {
    const std::string_view piece = std::string_view(reply_body_).substr(replied_, RestReply::kPieceBytes);
    out_.append(piece);
    replied_ += piece.size();
    more = replied_ < reply_body_.size();
  }
  if (!more) end_reply();
}

void HttpSession::end_reply() {
  state_ = keep_alive_ && !(ended_ && input_.empty()) ? State::head : State::closed;
  reply_.reset();
  reply_body_ = {};
  body_.clear();
  if (body_.capacity() > kMaxStepBytes) body_.shrink_to_fit();
  compressed_bytes_ = 0;
  memory_.release();
  cancelled_.reset();
  started_ = {};
  keep_alive_ = true;
  without_body_ = false;
}

}  // namespace datasentinel
