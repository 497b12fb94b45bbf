#include "wire/grpc/message_parts.h"

#include <cstring>

#include "core/protobuf.h"
#include "serving/severity.h"

namespace datasentinel {

using protobuf::Reader;
using protobuf::WireType;

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
  Reader field(message);
  while (field.next()) {
    if (field.number() != number) continue;
    const std::string_view bytes = field.bytes();
    if (field.type() != WireType::bytes && field.type() != WireType::fixed32) continue;
    if (bytes.size() % sizeof(float) != 0) return false;
    if (!bytes.empty()) std::memcpy(values.extend(bytes.size() / sizeof(float)), bytes.data(), bytes.size());
  }
  return field.ok();
}

void append_severities(const ScoringTask& task, std::string& out) {
  for (std::size_t i = 0; i < task.rows; ++i) {
    const float value = severity(task.scores.data()[i], task.model->scorer->threshold());
    out.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
}

}  // namespace datasentinel
