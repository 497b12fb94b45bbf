#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace datasentinel::protobuf {

static_assert(std::endian::native == std::endian::little, "protobuf's fixed-width numbers are little-endian");

enum class WireType : std::uint8_t { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 };

/// Walks the fields of one serialised message, borrowed. Every length is checked against what is left, so it
/// never reads outside of the message, and it never throws: after `next` has returned false, `ok` says
/// whether the message was complete.
class Reader {
 public:
  explicit Reader(std::string_view message) noexcept : rest_(message) {}

  /// Goes to the next field.
  [[nodiscard]] bool next() noexcept {
    if (rest_.empty()) return false;
    std::uint64_t tag = 0;
    if (!read_varint(tag)) return false;
    const std::uint64_t number = tag >> 3;
    if (number == 0 || number > 0x1FFFFFFF) return fail("a field has an impossible number");
    number_ = static_cast<std::uint32_t>(number);
    switch (tag & 7) {
      case 0: type_ = WireType::varint; return read_varint(scalar_);
      case 1: type_ = WireType::fixed64; return take(8);
      case 2: {
        type_ = WireType::bytes;
        std::uint64_t size = 0;
        return read_varint(size) && take(size);
      }
      case 5: type_ = WireType::fixed32; return take(4);
      default: return fail("a field has an unknown wire type");
    }
  }

  [[nodiscard]] bool ok() const noexcept { return problem_ == nullptr; }
  /// What is wrong with the message; null where nothing is.
  [[nodiscard]] const char* problem() const noexcept { return problem_; }

  [[nodiscard]] std::uint32_t number() const noexcept { return number_; }
  [[nodiscard]] WireType type() const noexcept { return type_; }
  /// Is this field `number` with this type? A known number with another type is an unknown field.
  [[nodiscard]] bool is(std::uint32_t number, WireType type) const noexcept {
    return number_ == number && type_ == type;
  }
  [[nodiscard]] std::uint64_t varint() const noexcept { return scalar_; }
  /// The content of a `bytes` field, or the four or eight bytes of a fixed-width number.
  [[nodiscard]] std::string_view bytes() const noexcept { return bytes_; }

  /// Reads a varint from the start of `text`, as packed lists of integers hold them.
  [[nodiscard]] static bool take_varint(std::string_view& text, std::uint64_t& value) noexcept {
    value = 0;
    for (unsigned shift = 0, i = 0; i < text.size() && shift < 64; shift += 7, ++i) {
      const auto byte = static_cast<unsigned char>(text[i]);
      if (shift == 63 && byte > 1) return false;
      value |= static_cast<std::uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) {
        text.remove_prefix(i + 1);
        return true;
      }
    }
    return false;
  }

 private:
  [[nodiscard]] bool read_varint(std::uint64_t& value) noexcept {
    constexpr std::size_t kLongest = 10;
    return take_varint(rest_, value) ||
           fail(rest_.size() < kLongest ? "a number is cut off" : "a number has more than 64 bits");
  }

  [[nodiscard]] bool take(std::uint64_t size) noexcept {
    if (size > rest_.size()) return fail("it is cut off, or a length in it is wrong");
    bytes_ = rest_.substr(0, static_cast<std::size_t>(size));
    rest_.remove_prefix(static_cast<std::size_t>(size));
    return true;
  }

  [[nodiscard]] bool fail(const char* problem) noexcept {
    problem_ = problem;
    rest_ = {};
    return false;
  }

  std::string_view rest_;
  std::string_view bytes_;
  std::uint64_t scalar_ = 0;
  std::uint32_t number_ = 0;
  WireType type_ = WireType::varint;
  const char* problem_ = nullptr;
};

/// The number in the eight bytes of a `fixed64` field.
[[nodiscard]] inline double double_of(std::string_view bytes) noexcept {
  double value = 0;
  std::memcpy(&value, bytes.data(), sizeof(value));
  return value;
}

[[nodiscard]] constexpr std::size_t varint_size(std::uint64_t value) noexcept {
  return value == 0 ? 1 : (static_cast<std::size_t>(std::bit_width(value)) + 6) / 7;
}

/// Bytes of a field with a length in front, for a field number below 16.
[[nodiscard]] constexpr std::size_t bytes_field_size(std::size_t size) noexcept {
  return 1 + varint_size(size) + size;
}

/// Appends fields, whose numbers are below 16, to a string.
class Writer {
 public:
  explicit Writer(std::string& out) noexcept : out_(out) {}

  void varint_field(unsigned number, std::uint64_t value) {
    tag(number, WireType::varint);
    varint(value);
  }

  void double_field(unsigned number, double value) {
    tag(number, WireType::fixed64);
    raw(&value, sizeof(value));
  }

  void float_field(unsigned number, float value) {
    tag(number, WireType::fixed32);
    raw(&value, sizeof(value));
  }

  void bytes_field(unsigned number, std::string_view value) {
    begin_bytes(number, value.size());
    out_.append(value);
  }

  /// Starts a field of `size` bytes, which the caller appends.
  void begin_bytes(unsigned number, std::size_t size) {
    tag(number, WireType::bytes);
    varint(size);
  }

  void varint(std::uint64_t value) {
    while (value >= 0x80) {
      out_.push_back(static_cast<char>(value | 0x80));
      value >>= 7;
    }
    out_.push_back(static_cast<char>(value));
  }

  void raw(const void* data, std::size_t size) { out_.append(static_cast<const char*>(data), size); }

 private:
  void tag(unsigned number, WireType type) {
    out_.push_back(static_cast<char>((number << 3) | static_cast<unsigned>(type)));
  }

  std::string& out_;
};

}  // namespace datasentinel::protobuf
