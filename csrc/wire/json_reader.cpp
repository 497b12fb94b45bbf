#include "wire/json_reader.h"

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cmath>
#include <limits>
#include <system_error>

#include "core/error.h"
#include "core/utf8.h"

namespace datasentinel {
namespace {

constexpr bool is_digit(char c) noexcept { return c >= '0' && c <= '9'; }
constexpr bool is_blank(char c) noexcept { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

/// The powers of ten that a double holds exactly.
constexpr std::array<double, 23> kPowersOfTen{1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                              1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                              1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

/// digits * 10^exponent as the nearest float32, when two roundings in double arithmetic are sure to lead
/// there: the double is off by at most 1.5 of its last places, which matters only beside the middle between
/// two neighbouring float32.
bool round_quickly(std::uint64_t digits, int exponent, float& value) noexcept {
  if (digits == 0) {
    value = 0;
    return true;
  }
  if (exponent < -22 || exponent > 22) return false;
  const double whole = static_cast<double>(digits);
  const double wide = exponent < 0 ? whole / kPowersOfTen[static_cast<std::size_t>(-exponent)]
                                   : whole * kPowersOfTen[static_cast<std::size_t>(exponent)];
  if (wide > static_cast<double>(std::numeric_limits<float>::max())) return false;
  // A float32 keeps 24 of a double's 53 bits, so the middle is a one followed by 28 zeros. Nothing this large
  // is subnormal: it is at least 1e-22.
  constexpr std::uint64_t kDropped = (std::uint64_t{1} << 29) - 1;
  constexpr std::int64_t kMiddle = std::int64_t{1} << 28;
  const auto dropped = static_cast<std::int64_t>(std::bit_cast<std::uint64_t>(wide) & kDropped);
  if (dropped > kMiddle - 4 && dropped < kMiddle + 4) return false;
  value = static_cast<float>(wide);
  return true;
}

/// How many digits a JSON number without sign has before its point once it is written without exponent;
/// negative when zeros follow the point.
std::int64_t power_of_ten(const char* at, const char* end) noexcept {
  std::int64_t power = 0;
  bool after_point = false;
  bool significant = false;
  for (; at != end && *at != 'e' && *at != 'E'; ++at) {
    if (*at == '.') {
      after_point = true;
      continue;
    }
    significant = significant || *at != '0';
    if (significant != after_point) power += significant ? 1 : -1;
  }
  if (at == end) return power;
  ++at;
  const bool down = *at == '-';
  if (down || *at == '+') ++at;
  std::int32_t exponent = 0;
  if (std::from_chars(at, end, exponent).ec != std::errc())
    exponent = std::numeric_limits<std::int32_t>::max();
  return down ? power - exponent : power + exponent;
}

/// The nearest float32 of a JSON number, whatever it takes.
JsonReader::Number round_carefully(const char* begin, const char* end, float& value) noexcept {
  if (std::from_chars(begin, end, value).ec != std::errc::result_out_of_range)
    return JsonReader::Number::good;
  // Too small is not a problem: its nearest float32 is zero or subnormal. from_chars does not tell which side
  // it was. A double does, except beyond its own range.
  double wide = 0;
  if (std::from_chars(begin, end, wide).ec == std::errc()) {
    value = static_cast<float>(wide);
    return std::isfinite(value) ? JsonReader::Number::good : JsonReader::Number::out_of_range;
  }
  const bool is_tiny = power_of_ten(*begin == '-' ? begin + 1 : begin, end) < 0;
  value = *begin == '-' ? -0.0F : 0.0F;
  return is_tiny ? JsonReader::Number::good : JsonReader::Number::out_of_range;
}

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
  while (at_ != end_ && is_blank(*at_)) ++at_;
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

JsonReader::Number JsonReader::read_float32(float& value) noexcept {
  skip_blanks();
  const char* const start = at_;
  const char* at = start;
  const bool negative = at != end_ && *at == '-';
  if (negative) ++at;
  if (at == end_ || !is_digit(*at)) return Number::not_a_number;

  // The digits as one whole number, as long as 64 bits hold it: 19 digits always fit.
  constexpr std::uint64_t kRoom = (std::numeric_limits<std::uint64_t>::max() - 9) / 10;
  std::uint64_t digits = 0;
  int exponent = 0;
  bool all_digits = true;
  const auto add_digit = [&](char digit) {
    all_digits = all_digits && digits <= kRoom;
    digits = 10 * digits + static_cast<std::uint64_t>(digit - '0');
  };
  if (*at == '0') {
    ++at;
    if (at != end_ && is_digit(*at)) return Number::not_a_number;
  }
  for (; at != end_ && is_digit(*at); ++at) add_digit(*at);
  if (at != end_ && *at == '.') {
    const char* const point = at++;
    for (; at != end_ && is_digit(*at); ++at) add_digit(*at);
    if (at == point + 1) return Number::not_a_number;
    exponent = -static_cast<int>(std::min<std::ptrdiff_t>(at - point - 1, 1000));
  }
  if (at != end_ && (*at == 'e' || *at == 'E')) {
    ++at;
    const bool down = at != end_ && *at == '-';
    if (at != end_ && (*at == '-' || *at == '+')) ++at;
    const char* const power = at;
    int size = 0;
    for (; at != end_ && is_digit(*at); ++at) size = std::min(10 * size + (*at - '0'), 100'000);
    if (at == power) return Number::not_a_number;
    exponent += down ? -size : size;
  }

  if (all_digits && round_quickly(digits, exponent, value)) {
    if (negative) value = -value;
  } else if (const Number outcome = round_carefully(start, at, value); outcome != Number::good) {
    return outcome;
  }
  at_ = at;
  return Number::good;
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
      if (read_float32(number) == Number::good) return;
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
