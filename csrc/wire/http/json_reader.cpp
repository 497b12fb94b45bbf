#include "wire/http/json_reader.h"

#include <array>
#include <charconv>
#include <cmath>
#include <system_error>

#include "core/error.h"
#include "core/utf8.h"

namespace datasentinel {
namespace {

constexpr bool is_whitespace(char c) noexcept { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

void append_utf8(std::uint32_t code, std::string& out) {
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += static_cast<char>(0xC0 | (code >> 6));
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    out += static_cast<char>(0xE0 | (code >> 12));
    out += static_cast<char>(0x80 | ((code >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | (code >> 18));
    out += static_cast<char>(0x80 | ((code >> 12) & 0x3F));
    out += static_cast<char>(0x80 | ((code >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  }
}

}  // namespace

void JsonReader::skip_blanks() noexcept {
  while (at_ != end_ && is_whitespace(*at_)) ++at_;
}

char JsonReader::peek() noexcept {
  skip_blanks();
  return at_ == end_ ? '\0' : *at_;
}

bool JsonReader::take(char sign) noexcept {
  if (peek() != sign || at_ == end_) return false;
  ++at_;
  return true;
}

void JsonReader::expect(char sign) {
  if (!take(sign)) fail(std::string("'") + sign + "'");
}

void JsonReader::enter(char bracket) {
  expect(bracket);
  if (++depth_ > kMaxDepth) fail("less nesting");
}

bool JsonReader::take_comma_or(char bracket) {
  if (take(',')) return true;
  if (!take(bracket)) fail(std::string("',' or '") + bracket + "'");
  return false;
}

void JsonReader::fail(std::string_view expected) const {
  throw Error(ErrorCode::invalid_argument, "the request is not valid JSON: expected " +
                                               std::string(expected) + " at byte " +
                                               std::to_string(at_ - begin_));
}

std::string_view JsonReader::read_string(std::string& buffer) {
  expect('"');
  const char* start = at_;
  bool escaped = false;
  for (;; ++at_) {
    if (at_ == end_ || static_cast<unsigned char>(*at_) < 0x20) fail("the end of a string");
    if (*at_ == '"') break;
    if (*at_ != '\\') continue;
    if (!escaped) buffer.clear();
    escaped = true;
    buffer.append(start, at_);
    ++at_;
    read_escape(buffer);
    start = at_--;
  }
  std::string_view text(start, static_cast<std::size_t>(at_ - start));
  if (escaped) {
    buffer.append(text);
    text = buffer;
  }
  if (!is_utf8(text)) fail("a string in UTF-8");
  ++at_;
  return text;
}

void JsonReader::read_escape(std::string& buffer) {
  constexpr std::string_view letters = "\"\\/bfnrt";
  constexpr std::string_view meanings = "\"\\/\b\f\n\r\t";
  const char letter = at_ == end_ ? '\0' : *at_;
  if (letter == 'u') {
    ++at_;
    std::uint32_t code = read_four_hex_digits();
    if (code >= 0xD800 && code < 0xDC00) {  // The first half of a pair.
      if (end_ - at_ < 2 || at_[0] != '\\' || at_[1] != 'u') fail("the second half of a surrogate pair");
      at_ += 2;
      const std::uint32_t second = read_four_hex_digits();
      if (second < 0xDC00 || second > 0xDFFF) fail("the second half of a surrogate pair");
      code = 0x10000 + ((code - 0xD800) << 10) + (second - 0xDC00);
    } else if (code >= 0xDC00 && code < 0xE000) {
      fail("the first half of a surrogate pair");
    }
    append_utf8(code, buffer);
    return;
  }
  const std::size_t found = letter == '\0' ? std::string_view::npos : letters.find(letter);
  if (found == std::string_view::npos) fail("an escape");
  buffer += meanings[found];
  ++at_;
}

std::uint32_t JsonReader::read_four_hex_digits() {
  std::uint32_t code = 0;
  if (end_ - at_ < 4) fail("four hexadecimal digits");
  const auto [stop, problem] = std::from_chars(at_, at_ + 4, code, 16);
  if (problem != std::errc() || stop != at_ + 4) fail("four hexadecimal digits");
  at_ = stop;
  return code;
}

bool JsonReader::read_bool() {
  const char first = peek();
  const std::string_view word = first == 't' ? "true" : "false";
  if (!std::string_view(at_, static_cast<std::size_t>(end_ - at_)).starts_with(word)) fail("true or false");
  at_ += word.size();
  return first == 't';
}

std::int64_t JsonReader::read_integer() {
  skip_blanks();
  std::int64_t value = 0;
  const auto [stop, problem] = std::from_chars(at_, end_, value);
  if (problem != std::errc() || (stop != end_ && (*stop == '.' || *stop == 'e' || *stop == 'E'))) {
    fail("a whole number");
  }
  at_ = stop;
  return value;
}

Decimal JsonReader::read_float32(float& value) noexcept {
  skip_blanks();
  return datasentinel::read_float32<DecimalForm::json>(at_, end_, value);
}

double JsonReader::read_double() {
  skip_blanks();
  const char* const start = at_;
  float narrow = 0;
  double value = 0;
  if (read_float32(narrow) != Decimal::good) fail("a number");
  std::from_chars(start, at_, value);
  return value;
}

void JsonReader::skip_value() {
  std::string buffer;
  float number = 0;
  switch (peek()) {
    case '{': return read_object([this](std::string_view) { skip_value(); });
    case '[': return read_array([this] { skip_value(); });
    case '"': return static_cast<void>(read_string(buffer));
    case 't':
    case 'f': return static_cast<void>(read_bool());
    case 'n':
      if (!std::string_view(at_, static_cast<std::size_t>(end_ - at_)).starts_with("null")) fail("a value");
      at_ += 4;
      return;
    default:
      if (read_float32(number) == Decimal::good) return;
      fail("a value");
  }
}

void JsonReader::expect_end() {
  if (peek() != '\0' || at_ != end_) fail("the end of the text");
}

void append_json_string(std::string_view text, std::string& out) {
  constexpr std::string_view hex = "0123456789abcdef";
  out += '"';
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (byte < 0x20) {
      out.append("\\u00").append(1, hex[byte >> 4]).append(1, hex[byte & 15]);
    } else {
      out += c;
    }
  }
  out += '"';
}

void append_json_number(float value, std::string& out) {
  if (!std::isfinite(value)) {
    out += "null";
    return;
  }
  std::array<char, 32> text{};
  const auto end = std::to_chars(text.data(), text.data() + text.size(), value).ptr;
  out.append(text.data(), end);
}

}  // namespace datasentinel
