#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace datasentinel::onnx {

enum class WireType : std::uint8_t { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 };

/// One decoded field of a protobuf message. The accessors throw Error{invalid_model} when the field was
/// written with another wire type. `bytes` borrows from the message.
class Field {
 public:
  Field(std::uint32_t number, WireType type, std::uint64_t scalar, std::span<const std::byte> bytes)
      : number_(number), type_(type), scalar_(scalar), bytes_(bytes) {}

  [[nodiscard]] std::uint32_t number() const noexcept { return number_; }
  [[nodiscard]] std::int64_t as_int64() const;
  [[nodiscard]] float as_float() const;
  [[nodiscard]] std::span<const std::byte> as_bytes() const;
  /// Valid UTF-8, so that a name can go into any message.
  [[nodiscard]] std::string as_string() const;

  // Repeated scalars come packed (one `bytes` field) or one by one; both are appended.
  void append_to(std::vector<std::int64_t>& values) const;
  void append_to(std::vector<float>& values) const;
  void append_to(std::vector<double>& values) const;

 private:
  void require(WireType type) const;

  std::uint32_t number_;
  WireType type_;
  std::uint64_t scalar_;
  std::span<const std::byte> bytes_;
};

/// Walks the fields of one serialised protobuf message. Every length is checked against what is left of the
/// message, so it never reads outside of it. Throws Error{invalid_model}.
class ProtobufReader {
 public:
  explicit ProtobufReader(std::span<const std::byte> message) : rest_(message) {}

  /// The next field, or nothing at the end of the message.
  [[nodiscard]] std::optional<Field> next();

 private:
  friend class Field;
  [[nodiscard]] std::uint64_t read_varint();
  [[nodiscard]] std::span<const std::byte> take(std::uint64_t size);

  std::span<const std::byte> rest_;
};

}  // namespace datasentinel::onnx
