#include "wire/http_session.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <system_error>
#include <utility>

#include "core/error.h"

namespace datasentinel {
namespace {

constexpr std::size_t kKeptBytes = 4096;

bool is_token(char c) noexcept {
  constexpr std::string_view others = "!#$%&'*+-.^_`|~";
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
         others.find(c) != std::string_view::npos;
}

/// A part of the path that means itself: nothing escaped, no query.
bool is_plain(std::string_view segment) noexcept {
  return !segment.empty() && std::ranges::all_of(segment, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_' || c == '.' || c == '~';
  });
}

bool equal_ignoring_case(std::string_view text, std::string_view lower) noexcept {
  return std::ranges::equal(text, lower, [](char a, char b) {
    return ((a >= 'A' && a <= 'Z') ? static_cast<char>(a + ('a' - 'A')) : a) == b;
  });
}

/// Digits and nothing else; nothing when they are no sensible number of bytes.
std::optional<std::size_t> read_size(std::string_view text) noexcept {
  std::size_t size = 0;
  if (text.empty() || text.size() > 15 || text.front() == '-' || text.front() == '+') return std::nullopt;
  const auto [stop, problem] = std::from_chars(text.data(), text.data() + text.size(), size);
  if (problem != std::errc() || stop != text.data() + text.size()) return std::nullopt;
  return size;
}

std::string_view reason_phrase(int status) noexcept {
  switch (status) {
    case 200: return "OK";
    case 400: return "Bad Request";
    case 404: return "Not Found";
    case 503: return "Service Unavailable";
    default: return "Internal Server Error";
  }
}

void append_number(std::size_t number, std::string& out) {
  std::array<char, 24> text{};
  out.append(text.data(), std::to_chars(text.data(), text.data() + text.size(), number).ptr);
}

}  // namespace

HttpSession::HttpSession(std::shared_ptr<RestInference> inference, HttpLimits limits, std::string server,
                         Authorize authorize)
    : inference_(std::move(inference)),
      limits_(limits),
      server_(std::move(server)),
      authorize_(std::move(authorize)) {
  if (inference_ == nullptr) throw Error(ErrorCode::invalid_argument, "a session needs an inference");
}

void HttpSession::feed(std::string_view bytes, std::string& replies) {
  if (declined_ || buffer_.size() + bytes.size() < needed_bytes_) {
    buffer_.append(bytes);
    return;
  }
  if (buffer_.empty()) {
    buffer_.assign(bytes.substr(answer_all(bytes, replies)));
    return;
  }
  buffer_.append(bytes);
  const std::size_t answered = answer_all(buffer_, replies);
  buffer_.erase(0, answered);
  if (buffer_.empty() && buffer_.capacity() > kKeptBytes) buffer_.shrink_to_fit();
}

std::string HttpSession::take_declined() {
  declined_ = false;
  needed_bytes_ = 0;
  return std::exchange(buffer_, {});
}

/// Returns how many bytes belong to the requests it answered.
std::size_t HttpSession::answer_all(std::string_view bytes, std::string& replies) {
  std::size_t answered = 0;
  needed_bytes_ = 0;
  while (answered < bytes.size()) {
    const std::string_view rest = bytes.substr(answered);
    constexpr std::string_view end_of_head = "\r\n\r\n";
    const std::size_t end = rest.substr(0, limits_.max_header_bytes).find(end_of_head);
    // What does not even begin like one of ours need not be complete to be declined.
    constexpr std::string_view beginning = "POST /v2/models/";
    const bool complete = end != std::string_view::npos;
    if (!rest.starts_with(beginning.substr(0, rest.size())) ||
        (!complete && rest.size() >= limits_.max_header_bytes)) {
      declined_ = true;
      break;
    }
    if (!complete) break;
    Head head;
    head.bytes = end + end_of_head.size();
    if (!read_head(rest.substr(0, end + 2), head)) {
      declined_ = true;
      break;
    }
    if (inference_->is_long(head.model_name, head.model_version, *head.body_bytes)) {
      declined_ = true;
      break;
    }
    const std::size_t total = head.bytes + *head.body_bytes;
    if (rest.size() < total) {
      needed_bytes_ = total;
      break;
    }
    append_reply(inference_->answer({.model_name = head.model_name,
                                     .model_version = head.model_version,
                                     .body = rest.substr(head.bytes, *head.body_bytes),
                                     .json_bytes = head.json_bytes}),
                 replies);
    answered += total;
  }
  return answered;
}

/// `text` are the lines of a head, each with its end. False: not a request for this session.
bool HttpSession::read_head(std::string_view text, Head& head) const {
  for (bool first = true; !text.empty(); first = false) {
    const std::size_t end = text.find("\r\n");
    const std::string_view line = text.substr(0, end);
    if (!(first ? read_request_line(line, head) : read_header(line, head))) return false;
    text.remove_prefix(end + 2);
  }
  if (!head.has_host || !head.body_bytes || *head.body_bytes > limits_.max_body_bytes) return false;
  return !authorize_ || authorize_(head.authorization);
}

bool HttpSession::read_request_line(std::string_view line, Head& head) {
  constexpr std::string_view beginning = "POST /v2/models/";
  constexpr std::string_view ending = "/infer HTTP/1.1";
  constexpr std::string_view versions = "/versions/";
  if (!line.starts_with(beginning) || !line.ends_with(ending) ||
      line.size() < beginning.size() + ending.size()) {
    return false;
  }
  line = line.substr(beginning.size(), line.size() - beginning.size() - ending.size());
  const std::size_t slash = line.find(versions);
  head.model_name = line.substr(0, slash);
  if (slash != std::string_view::npos) {
    head.model_version = line.substr(slash + versions.size());
    if (!is_plain(head.model_version)) return false;
  }
  return is_plain(head.model_name);
}

bool HttpSession::read_header(std::string_view line, Head& head) {
  const std::size_t colon = line.find(':');
  if (colon == 0 || colon == std::string_view::npos) return false;
  const std::string_view name = line.substr(0, colon);
  if (!std::ranges::all_of(name, is_token)) return false;
  std::string_view value = line.substr(colon + 1);
  while (!value.empty() && (value.front() == ' ' || value.front() == '\t')) value.remove_prefix(1);
  while (!value.empty() && (value.back() == ' ' || value.back() == '\t')) value.remove_suffix(1);
  if (std::ranges::any_of(
          value, [](char c) { return (static_cast<unsigned char>(c) < 0x20 && c != '\t') || c == 0x7F; })) {
    return false;
  }
  // Each of these may come once, and only in the plain form; anything else is left to the owner.
  const auto once = [](auto& slot, auto found) {
    if (slot || !found) return false;
    slot = found;
    return true;
  };
  if (equal_ignoring_case(name, "content-length")) return once(head.body_bytes, read_size(value));
  if (equal_ignoring_case(name, "inference-header-content-length")) {
    return once(head.json_bytes, read_size(value));
  }
  if (equal_ignoring_case(name, "authorization")) return once(head.authorization, std::optional(value));
  if (equal_ignoring_case(name, "host")) return !std::exchange(head.has_host, true) && !value.empty();
  if (equal_ignoring_case(name, "connection")) return equal_ignoring_case(value, "keep-alive");
  if (equal_ignoring_case(name, "content-encoding")) return equal_ignoring_case(value, "identity");
  return !equal_ignoring_case(name, "transfer-encoding") && !equal_ignoring_case(name, "expect") &&
         !equal_ignoring_case(name, "upgrade");
}

void HttpSession::append_reply(const RestReply& reply, std::string& replies) const {
  replies.append("HTTP/1.1 ");
  append_number(static_cast<std::size_t>(reply.status), replies);
  replies.append(" ").append(reason_phrase(reply.status));
  replies.append("\r\nContent-Type: ");
  replies.append(reply.json_bytes ? "application/octet-stream" : "application/json");
  replies.append("\r\nContent-Length: ");
  append_number(reply.body.size(), replies);
  if (reply.json_bytes) {
    replies.append("\r\nInference-Header-Content-Length: ");
    append_number(*reply.json_bytes, replies);
  }
  replies.append("\r\nServer: ").append(server_).append("\r\n\r\n").append(reply.body);
}

}  // namespace datasentinel
