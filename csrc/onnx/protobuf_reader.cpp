#include "onnx/protobuf_reader.h"

#include <cstring>

#include "core/error.h"
#include "core/utf8.h"

namespace datasentinel::onnx {
namespace {

using protobuf::WireType;

[[noreturn]] void fail(const std::string& what) {
  throw Error(ErrorCode::invalid_model, "not a valid ONNX file: " + what);
}

/// Appends the values of a packed list, or the one that `bytes` holds.
template <typename Value>
void append(std::string_view bytes, std::vector<Value>& values) {
  if (bytes.size() % sizeof(Value) != 0) fail("a packed list of numbers is cut off");
  const std::size_t before = values.size();
  values.resize(before + bytes.size() / sizeof(Value));
  if (!bytes.empty()) std::memcpy(values.data() + before, bytes.data(), bytes.size());
}

}  // namespace

void Field::require(WireType type) const {
  if (field_.type() != type) fail("field " + std::to_string(number()) + " has an unexpected wire type");
}

std::string_view Field::content(WireType type) const {
  require(type);
  return field_.bytes();
}

std::int64_t Field::as_int64() const {
  require(WireType::varint);
  return static_cast<std::int64_t>(field_.varint());
}

float Field::as_float() const {
  float value = 0;
  std::memcpy(&value, content(WireType::fixed32).data(), sizeof(value));
  return value;
}

std::span<const std::byte> Field::as_bytes() const {
  const std::string_view bytes = content(WireType::bytes);
  return {reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()};
}

std::string Field::as_string() const {
  std::string text(content(WireType::bytes));
  if (!is_utf8(text)) fail("field " + std::to_string(number()) + " is not UTF-8 text");
  return text;
}

void Field::append_to(std::vector<std::int64_t>& values) const {
  if (field_.type() == WireType::varint) return values.push_back(as_int64());
  std::string_view packed = content(WireType::bytes);
  for (std::uint64_t value = 0; !packed.empty(); values.push_back(static_cast<std::int64_t>(value))) {
    if (!protobuf::Reader::take_varint(packed, value)) fail("a packed list of numbers is cut off");
  }
}

void Field::append_to(std::vector<float>& values) const {
  append(content(field_.type() == WireType::fixed32 ? WireType::fixed32 : WireType::bytes), values);
}

void Field::append_to(std::vector<double>& values) const {
  append(content(field_.type() == WireType::fixed64 ? WireType::fixed64 : WireType::bytes), values);
}

std::optional<Field> ProtobufReader::next() {
  if (reader_.next()) return Field(reader_);
  if (!reader_.ok()) fail(reader_.problem());
  return std::nullopt;
}

}  // namespace datasentinel::onnx
