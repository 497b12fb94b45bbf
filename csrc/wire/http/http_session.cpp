#include "wire/http/http_session.h"

#include <algorithm>

#include "core/error.h"
#include "wire/wording.h"

namespace datasentinel {
namespace {

/// A turn ends after so many bytes of replies.
constexpr std::size_t kMaxOutputBytes = std::size_t{256} << 10;
/// Of empty lines before a request.
constexpr std::size_t kMaxBlankBytes = 64;

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

/// Does a small part of what there is to do; returns false where nothing can be done now.
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
  // Some clients end a body with an empty line, which is not part of the next request (RFC 9112 2.2).
  std::size_t blank = 0;
  const std::string_view bytes = input_.view();
  while (blank < bytes.size() && (bytes[blank] == '\r' || bytes[blank] == '\n')) ++blank;
  if (blank != 0) {
    input_.consume(blank);
    searched_ = 0;
    blank_bytes_ += blank;
    if (blank_bytes_ > kMaxBlankBytes) refuse({.status = 400, .reason = "empty lines without a request"});
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
  blank_bytes_ = 0;
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
  event_ = {};
  if (is_inference_ && may_pass) {
    const auto encoding = head.find("content-encoding");
    is_compressed_ = encoding && !equal_ignoring_case(*encoding, "identity");
    event_.is_inference = is_compressed_ || head.find("origin") || head.find("sec-fetch-site");
  }
  if (!is_inference_ || !may_pass || event_.is_inference) {
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

/// Lets the body grow by so many bytes, or refuses the request and returns false.
bool HttpSession::make_room(std::size_t bytes) {
  const std::size_t needed = body_.size() + bytes;
  if (needed <= body_.capacity()) return true;
  const std::size_t capacity = std::max(needed, std::min(2 * body_.capacity(), max_body_bytes_));
  if (capacity > kOwnBytes && !memory_.resize(capacity + owners_bytes_)) {
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

}  // namespace datasentinel
