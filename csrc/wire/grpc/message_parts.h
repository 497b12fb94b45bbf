#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "serving/float_buffer.h"
#include "wire/grpc/grpc_status.h"

// What the messages that carry rows have in common. All other messages are left to protobuf's own library.

namespace datasentinel {

/// Refuses bytes that are not a message of this type.
[[nodiscard]] GrpcStatus not_a(std::string_view type);

/// Counts the floats of field `number`, packed or one by one. Nothing when the message is broken.
[[nodiscard]] std::optional<std::size_t> count_floats(std::string_view message,
                                                      std::uint32_t number) noexcept;

/// Appends the floats of field `number`, packed or one by one. False when the message is broken.
[[nodiscard]] bool read_floats(std::string_view message, std::uint32_t number, FloatBuffer& values);

/// Appends the doubles of field `number`, packed or one by one. False when the message is broken.
[[nodiscard]] bool read_doubles(std::string_view message, std::uint32_t number, std::vector<double>& values);

}  // namespace datasentinel
