#include "wire/grpc/message_parts.h"

#include <cstring>

#include "core/protobuf.h"

namespace datasentinel {

using protobuf::Reader;
using protobuf::WireType;

namespace {

/// Appends the numbers of a field, packed or one by one, where `extend` makes room for so many more.
template <typename Number, typename Extend>
bool read_numbers(std::string_view message, std::uint32_t number, WireType alone, Extend extend) {
  Reader field(message);
  while (field.next()) {
    if (!field.is(number, WireType::bytes) && !field.is(number, alone)) continue;
    const std::string_view bytes = field.bytes();
    if (bytes.size() % sizeof(Number) != 0) return false;
    if (!bytes.empty()) std::memcpy(extend(bytes.size() / sizeof(Number)), bytes.data(), bytes.size());
  }
  return field.ok();
}

}  // namespace

GrpcStatus not_a(std::string_view type) {
  return {GrpcCode::invalid_argument, "the message is not a valid " + std::string(type)};
}

std::optional<std::size_t> count_floats(std::string_view message, std::uint32_t number) noexcept {
  Reader field(message);
  std::size_t bytes = 0;
  while (field.next()) {
    if (!field.is(number, WireType::bytes) && !field.is(number, WireType::fixed32)) continue;
    if (field.bytes().size() % sizeof(float) != 0) return std::nullopt;
    bytes += field.bytes().size();
  }
  if (!field.ok()) return std::nullopt;
  return bytes / sizeof(float);
}

bool read_floats(std::string_view message, std::uint32_t number, FloatBuffer& values) {
  return read_numbers<float>(message, number, WireType::fixed32,
                             [&values](std::size_t count) { return values.extend(count); });
}

bool read_doubles(std::string_view message, std::uint32_t number, std::vector<double>& values) {
  return read_numbers<double>(message, number, WireType::fixed64, [&values](std::size_t count) {
    values.resize(values.size() + count);
    return values.data() + values.size() - count;
  });
}

}  // namespace datasentinel
