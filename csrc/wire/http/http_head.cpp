#include "wire/http/http_head.h"

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <system_error>

namespace datasentinel {
namespace {

constexpr std::string_view kTokenSigns = "!#$%&'*+-.^_`|~";
constexpr std::string_view kAuthoritySigns = "-._~!$&'()*+,;=:[]%";
constexpr std::size_t kMaxFields = 100;
constexpr std::size_t kMaxChunkLineBytes = 4096;
constexpr std::size_t kMaxChunkOverheadBytes = 16 << 10;

constexpr char lower(char c) noexcept {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c;
}

/// Letters, digits and these signs, and nothing else.
bool consists_of(std::string_view text, std::string_view signs) noexcept {
  return std::ranges::all_of(text, [signs](char c) {
    return (lower(c) >= 'a' && lower(c) <= 'z') || (c >= '0' && c <= '9') ||
           signs.find(c) != std::string_view::npos;
  });
}

bool is_token(std::string_view text) noexcept { return !text.empty() && consists_of(text, kTokenSigns); }

/// Whether this may stand for a host and a port, or is empty (RFC 9110 4.2, without user names).
bool is_authority(std::string_view text) noexcept { return consists_of(text, kAuthoritySigns); }

bool is_control(char c) noexcept { return (static_cast<unsigned char>(c) < 0x20 && c != '\t') || c == 0x7F; }

std::string_view trimmed(std::string_view text) noexcept {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

/// Whether a comma-separated list has this member.
bool lists(std::string_view list, std::string_view lower_member) noexcept {
  while (true) {
    const std::size_t comma = list.find(',');
    if (equal_ignoring_case(trimmed(list.substr(0, comma)), lower_member)) return true;
    if (comma == std::string_view::npos) return false;
    list.remove_prefix(comma + 1);
  }
}

HttpProblem bad(std::string reason) { return {.status = 400, .reason = std::move(reason)}; }

std::string_view take_line(std::string_view& text) noexcept {
  const std::size_t end = text.find('\n');
  std::string_view line = text.substr(0, end);
  text.remove_prefix(end + 1);
  if (line.ends_with('\r')) line.remove_suffix(1);
  return line;
}

/// Reduces the target to its path and query, whatever form of RFC 9112 3.2 it has.
std::optional<HttpProblem> read_target(HttpHead& head) {
  if (head.method == "CONNECT") return HttpProblem{.status = 501, .reason = "this server is no proxy"};
  if (head.target.front() == '/' || (head.target == "*" && head.method == "OPTIONS")) return std::nullopt;
  // The absolute form is meant for proxies; every server has to take it.
  for (const std::string_view scheme : {"http://", "https://"}) {
    if (!equal_ignoring_case(head.target.substr(0, scheme.size()), scheme)) continue;
    const std::string_view rest = head.target.substr(scheme.size());
    const std::size_t path = std::min(rest.find_first_of("/?"), rest.size());
    head.authority = rest.substr(0, path);
    head.target = path == rest.size() ? "/" : rest.substr(path);
    if (head.target.front() == '?') return bad("the target has a query and no path");
    if (head.authority.empty()) return bad("the target names no host");
    return std::nullopt;
  }
  return bad("the target is neither a path nor an address of http or https");
}

std::optional<HttpProblem> read_request_line(std::string_view line, HttpHead& head) {
  const std::size_t first = line.find(' ');
  const std::size_t last = line.rfind(' ');
  if (first == std::string_view::npos || first == last) return bad("malformed request line");
  head.method = line.substr(0, first);
  head.target = line.substr(first + 1, last - first - 1);
  const std::string_view version = line.substr(last + 1);
  if (!is_token(head.method) || head.target.empty() ||
      std::ranges::any_of(head.target, [](char c) { return c <= 0x20 || c >= 0x7F; })) {
    return bad("malformed request line");
  }
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  const bool is_http = version.size() == 8 && version.starts_with("HTTP/") && is_digit(version[5]) &&
                       version[6] == '.' && is_digit(version[7]);
  if (!is_http) return bad("the request line names no version of HTTP");
  if (version[5] != '1') return HttpProblem{.status = 505, .reason = "this server speaks HTTP/1.1"};
  head.old = version[7] == '0';
  return read_target(head);
}

/// Splits a line into a field's name and its value, without the blanks around that (RFC 9112 5).
std::optional<HttpProblem> read_field(std::string_view line, HttpField& field) {
  const std::size_t colon = line.find(':');
  field.first = line.substr(0, colon);
  if (colon == std::string_view::npos || !is_token(field.first)) return bad("malformed header field");
  field.second = trimmed(line.substr(colon + 1));
  if (std::ranges::any_of(field.second, is_control)) return bad("a header field holds a control character");
  return std::nullopt;
}

/// What the fields say about the message's length and the connection.
std::optional<HttpProblem> read_framing(HttpHead& head) {
  std::size_t hosts = 0;
  head.keep_alive = !head.old;
  for (auto& [name, value] : head.fields) {
    if (equal_ignoring_case(name, "host")) {
      if (++hosts > 1) return bad("more than one Host");
      if (!head.authority.empty()) value = head.authority;  // It counts, whatever Host says (RFC 9112 3.2.2).
      if (!is_authority(value)) return bad("Host is not a host's name or address");
    } else if (equal_ignoring_case(name, "content-length")) {
      if (head.content_bytes) return bad("more than one Content-Length");
      head.content_bytes = read_size(value);
      if (!head.content_bytes) return bad("Content-Length is not a number of bytes");
    } else if (equal_ignoring_case(name, "transfer-encoding")) {
      if (!equal_ignoring_case(trimmed(value.substr(value.rfind(',') + 1)), "chunked")) {
        return bad("Transfer-Encoding does not end with chunked, so the end of the body is unknown");
      }
      if (head.chunked || !equal_ignoring_case(value, "chunked")) {
        return HttpProblem{.status = 501, .reason = "Transfer-Encoding: chunked is the only one known here"};
      }
      head.chunked = true;
    } else if (equal_ignoring_case(name, "connection")) {
      if (lists(value, "close")) head.keep_alive = false;
    } else if (equal_ignoring_case(name, "expect")) {
      if (!equal_ignoring_case(value, "100-continue")) {
        return HttpProblem{.status = 417, .reason = "Expect: 100-continue is the only one known here"};
      }
      head.expects_continue = !head.old;
    }
  }
  if (hosts == 0 && !head.old) return bad("Host is missing");
  // A client that sends both may be smuggling a request past a proxy that reads the other one (RFC 9112 6.1).
  if (head.chunked && head.content_bytes) return bad("both Transfer-Encoding and Content-Length");
  if (head.chunked && head.old) return bad("HTTP/1.0 knows no Transfer-Encoding");
  return std::nullopt;
}

}  // namespace

std::optional<std::string_view> HttpHead::find(std::string_view lower_name) const noexcept {
  for (const auto& [name, value] : fields) {
    if (equal_ignoring_case(name, lower_name)) return value;
  }
  return std::nullopt;
}

void HttpHead::clear() noexcept {
  auto kept = std::move(fields);
  kept.clear();
  *this = {};
  fields = std::move(kept);
}

std::size_t find_end_of_head(std::string_view bytes, std::size_t searched) noexcept {
  // The empty line may have begun in what was searched.
  std::size_t at = searched < 3 ? 0 : searched - 3;
  while ((at = bytes.find('\n', at)) != std::string_view::npos) {
    const std::string_view next = bytes.substr(++at, 2);
    if (next.starts_with('\n')) return at + 1;
    if (next == "\r\n") return at + 2;
  }
  return std::string_view::npos;
}

std::optional<HttpProblem> read_head(std::string_view text, HttpHead& head) {
  if (auto problem = read_request_line(take_line(text), head)) return problem;
  for (std::string_view line = take_line(text); !line.empty(); line = take_line(text)) {
    HttpField field;
    if (auto problem = read_field(line, field)) return problem;
    if (head.fields.size() == kMaxFields) {
      return HttpProblem{.status = 431,
                         .reason = "more than " + std::to_string(kMaxFields) + " header fields"};
    }
    head.fields.push_back(field);
  }
  return read_framing(head);
}

std::optional<std::size_t> read_size(std::string_view text) noexcept {
  std::size_t size = 0;
  if (text.empty() || text.size() > 15 || text.front() < '0' || text.front() > '9') return std::nullopt;
  const auto [stop, problem] = std::from_chars(text.data(), text.data() + text.size(), size);
  if (problem != std::errc() || stop != text.data() + text.size()) return std::nullopt;
  return size;
}

bool equal_ignoring_case(std::string_view text, std::string_view lower_text) noexcept {
  return std::ranges::equal(text, lower_text, [](char a, char b) { return lower(a) == b; });
}

std::string_view reason_phrase(int status) noexcept {
  switch (status) {
    case 200: return "OK";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 413: return "Content Too Large";
    case 415: return "Unsupported Media Type";
    case 417: return "Expectation Failed";
    case 431: return "Request Header Fields Too Large";
    case 501: return "Not Implemented";
    case 503: return "Service Unavailable";
    case 505: return "HTTP Version Not Supported";
    default: return "Internal Server Error";
  }
}

std::optional<HttpProblem> ChunkedBody::read(std::string_view& bytes, std::string& body) {
  while (state_ != State::done && !bytes.empty()) {
    if (state_ == State::content) {
      const std::size_t size = std::min(left_, bytes.size());
      body.append(bytes.substr(0, size));
      bytes.remove_prefix(size);
      left_ -= size;
      if (left_ == 0) state_ = State::end_of_content;
      continue;
    }
    const std::size_t newline = bytes.find('\n');
    line_.append(bytes.substr(0, newline));
    if (line_.size() > kMaxChunkLineBytes) return bad("a chunk's line is too long");
    if (newline == std::string_view::npos) {
      bytes = {};
      return std::nullopt;
    }
    bytes.remove_prefix(newline + 1);
    std::string_view line = line_;
    // A reader that takes a bare LF for the end, or passes over blanks, may find other requests in the body.
    if (!line.ends_with('\r')) return bad("a line between chunks does not end with CRLF");
    line.remove_suffix(1);
    if (std::ranges::any_of(line, is_control)) return bad("a line between chunks holds a control character");
    if (state_ == State::end_of_content) {
      if (!line.empty()) return bad("a chunk is longer than it says");
      state_ = State::size;
    } else if (state_ == State::trailer) {
      HttpField field;
      if (line.empty()) {
        state_ = State::done;
      } else if (auto problem = read_field(line, field)) {
        return problem;
      }
      overhead_ += line.size();
    } else {
      const std::string_view size = line.substr(0, line.find(';'));
      std::uint64_t value = 0;
      const auto [stop, problem] = std::from_chars(size.data(), size.data() + size.size(), value, 16);
      if (size.empty() || size.size() > 12 || problem != std::errc() || stop != size.data() + size.size() ||
          size.front() == '-') {
        return bad("a chunk's size is not a hexadecimal number");
      }
      overhead_ += line.size() - size.size();
      left_ = value;
      announced_ += value;
      state_ = value == 0 ? State::trailer : State::content;
    }
    if (overhead_ > kMaxChunkOverheadBytes) return bad("the chunks hold more than their content");
    line_.clear();
  }
  return std::nullopt;
}

}  // namespace datasentinel
