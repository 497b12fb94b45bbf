#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/protobuf.h"

namespace datasentinel::onnx {

/// One field of a protobuf message, where it has the type that ONNX specifies: the accessors throw
/// Error{invalid_model} when it was written with another wire type. `as_bytes` borrows from the message.
class Field {
 public:
  explicit Field(const protobuf::Reader& at) noexcept : field_(at) {}

  [[nodiscard]] std::uint32_t number() const noexcept { return field_.number(); }
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
  void require(protobuf::WireType type) const;
  /// The bytes of a field that must have this type.
  [[nodiscard]] std::string_view content(protobuf::WireType type) const;

  protobuf::Reader field_;
};

/// Walks the fields of one serialised protobuf message. Throws Error{invalid_model} where it is broken.
class ProtobufReader {
 public:
  explicit ProtobufReader(std::span<const std::byte> message) noexcept
      : reader_({reinterpret_cast<const char*>(message.data()), message.size()}) {}

  /// The next field, or nothing at the end of the message.
  [[nodiscard]] std::optional<Field> next();

 private:
  protobuf::Reader reader_;
};

}  // namespace datasentinel::onnx
