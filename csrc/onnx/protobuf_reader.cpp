#include "onnx/protobuf_reader.h"

#include <bit>
#include <cstring>

#include "core/error.h"
#include "core/utf8.h"

namespace datasentinel::onnx {
namespace {

[[noreturn]] void fail(const std::string& what) {
  throw Error(ErrorCode::invalid_model, "not a valid ONNX file: " + what);
}

template <typename Word>
Word little_endian(std::span<const std::byte> bytes) noexcept {
  Word word = 0;
  for (std::size_t i = 0; i < sizeof(Word); ++i) {
    word |= static_cast<Word>(std::to_integer<Word>(bytes[i]) << (8 * i));
  }
  return word;
}

}  // namespace

void Field::require(WireType type) const {
  if (type_ != type) fail("field " + std::to_string(number_) + " has an unexpected wire type");
}

std::int64_t Field::as_int64() const {
  require(WireType::varint);
  return static_cast<std::int64_t>(scalar_);
}

float Field::as_float() const {
  require(WireType::fixed32);
  return std::bit_cast<float>(static_cast<std::uint32_t>(scalar_));
}

std::span<const std::byte> Field::as_bytes() const {
  require(WireType::bytes);
  return bytes_;
}

std::string Field::as_string() const {
  require(WireType::bytes);
  std::string text(bytes_.size(), '\0');
  if (!bytes_.empty()) std::memcpy(text.data(), bytes_.data(), bytes_.size());
  if (!is_utf8(text)) fail("field " + std::to_string(number_) + " is not UTF-8 text");
  return text;
}

void Field::append_to(std::vector<std::int64_t>& values) const {
  if (type_ == WireType::varint) {
    values.push_back(static_cast<std::int64_t>(scalar_));
    return;
  }
  ProtobufReader packed(as_bytes());
  while (!packed.rest_.empty()) values.push_back(static_cast<std::int64_t>(packed.read_varint()));
}

void Field::append_to(std::vector<float>& values) const {
  if (type_ == WireType::fixed32) {
    values.push_back(as_float());
    return;
  }
  const auto packed = as_bytes();
  if (packed.size() % sizeof(float) != 0) fail("a packed list of floats is cut off");
  for (std::size_t i = 0; i < packed.size(); i += sizeof(float)) {
    values.push_back(std::bit_cast<float>(little_endian<std::uint32_t>(packed.subspan(i))));
  }
}

void Field::append_to(std::vector<double>& values) const {
  if (type_ == WireType::fixed64) {
    values.push_back(std::bit_cast<double>(scalar_));
    return;
  }
  const auto packed = as_bytes();
  if (packed.size() % sizeof(double) != 0) fail("a packed list of doubles is cut off");
  for (std::size_t i = 0; i < packed.size(); i += sizeof(double)) {
    values.push_back(std::bit_cast<double>(little_endian<std::uint64_t>(packed.subspan(i))));
  }
}

std::optional<Field> ProtobufReader::next() {
  if (rest_.empty()) return std::nullopt;
  const std::uint64_t tag = read_varint();
  const std::uint64_t number = tag >> 3;
  if (number == 0 || number > 0x1FFFFFFF) fail("a field has an impossible number");
  const auto field = [number](WireType type, std::uint64_t scalar, std::span<const std::byte> bytes) {
    return Field(static_cast<std::uint32_t>(number), type, scalar, bytes);
  };
  switch (tag & 7) {
    case 0: return field(WireType::varint, read_varint(), {});
    case 1: return field(WireType::fixed64, little_endian<std::uint64_t>(take(8)), {});
    case 2: return field(WireType::bytes, 0, take(read_varint()));
    case 5: return field(WireType::fixed32, little_endian<std::uint32_t>(take(4)), {});
    default: fail("a field has an unknown wire type");
  }
}

std::uint64_t ProtobufReader::read_varint() {
  std::uint64_t value = 0;
  for (unsigned shift = 0; shift < 64; shift += 7) {
    const auto byte = std::to_integer<std::uint64_t>(take(1)[0]);
    if (shift == 63 && byte > 1) break;
    value |= (byte & 0x7F) << shift;
    if (byte < 0x80) return value;
  }
  fail("a number has more than 64 bits");
}

std::span<const std::byte> ProtobufReader::take(std::uint64_t size) {
  if (size > rest_.size()) fail("it is cut off, or a length in it is wrong");
  const auto taken = rest_.first(static_cast<std::size_t>(size));
  rest_ = rest_.subspan(static_cast<std::size_t>(size));
  return taken;
}

}  // namespace datasentinel::onnx
