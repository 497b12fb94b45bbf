// The answering half of HttpSession: from a request that has been read to the bytes of its reply.
#include <algorithm>
#include <array>
#include <charconv>

#include "wire/http/http_session.h"
#include "wire/http/http_status.h"
#include "wire/http/json_reader.h"
#include "wire/wording.h"

namespace datasentinel {
namespace {

constexpr std::string_view kRetry = "Retry-After: 1\r\n";
constexpr std::string_view kJson = "Content-Type: application/json\r\n";

void append_number(std::size_t number, std::string& out, int base = 10) {
  std::array<char, 24> text{};
  out.append(text.data(), std::to_chars(text.data(), text.data() + text.size(), number, base).ptr);
}

}  // namespace

void HttpSession::dispatch(std::string_view body) {
  if (is_inference_ && !event_.is_inference) return infer(body);
  // What the owner need not inflate stays here: it only says whether the request may pass.
  std::string& kept = event_.is_inference && !is_compressed_ ? body_ : event_.body;
  if (body.data() != body_.data()) {
    kept = body;
  } else if (&kept != &body_) {
    kept = std::exchange(body_, {});
  }
  owners_bytes_ = event_.is_inference ? event_.body.size() : 0;
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
  constexpr double kUsPerByte = 0.005;  // A guess, until a request has been measured.
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
  owners_bytes_ = 0;
  memory_.release();
  cancelled_.reset();
  started_ = {};
  keep_alive_ = true;
  without_body_ = false;
}

}  // namespace datasentinel
