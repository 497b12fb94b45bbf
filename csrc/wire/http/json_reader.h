#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "wire/decimal.h"

namespace datasentinel {

/// Reads one JSON text from front to back, without building a tree. The text is borrowed.
///
/// Malformed JSON throws Error{invalid_argument} with the position of the first wrong byte.
class JsonReader {
 public:
  explicit JsonReader(std::string_view text) noexcept
      : begin_(text.data()), at_(text.data()), end_(text.data() + text.size()) {}

  /// The first byte of the next value or sign, or '\0' at the end of the text.
  [[nodiscard]] char peek() noexcept;

  /// Calls `on_member(key)` for each member of an object; it has to read the value.
  template <typename OnMember>
  void read_object(OnMember on_member) {
    std::string buffer;
    enter('{');
    for (bool more = !take('}'); more; more = take_comma_or('}')) {
      const std::string_view key = read_string(buffer);
      expect(':');
      on_member(key);
    }
    --depth_;
  }

  /// Calls `on_element()` for each element of an array; it has to read the value.
  template <typename OnElement>
  void read_array(OnElement on_element) {
    enter('[');
    for (bool more = !take(']'); more; more = take_comma_or(']')) on_element();
    --depth_;
  }

  /// A string in UTF-8. The view borrows from the text, or from `buffer` where there are escapes.
  [[nodiscard]] std::string_view read_string(std::string& buffer);

  [[nodiscard]] bool read_bool();
  [[nodiscard]] std::int64_t read_integer();

  /// A number, rounded once to the nearest float32. Where the next value is not a number, or one that float32
  /// cannot hold, nothing is read.
  [[nodiscard]] Decimal read_float32(float& value) noexcept;

  [[nodiscard]] double read_double();

  void skip_value();

  /// Nothing but blanks may be left.
  void expect_end();

  /// Throws: the text is wrong at the current position.
  [[noreturn]] void fail(std::string_view expected) const;

 private:
  static constexpr int kMaxDepth = 64;

  void skip_blanks() noexcept;
  void enter(char bracket);
  [[nodiscard]] bool take(char sign) noexcept;
  void expect(char sign);
  [[nodiscard]] bool take_comma_or(char bracket);
  void read_escape(std::string& buffer);
  [[nodiscard]] std::uint32_t read_four_hex_digits();

  const char* begin_;
  const char* at_;
  const char* end_;
  int depth_ = 0;
};

/// Appends a JSON string, quotes included. `text` must be UTF-8.
void append_json_string(std::string_view text, std::string& out);

/// Appends the shortest decimal number that reads back as `value`; null where it is not finite, for which
/// JSON has no number.
void append_json_number(float value, std::string& out);

}  // namespace datasentinel
