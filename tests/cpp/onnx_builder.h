#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

// Writes small ONNX files byte by byte, so that the C++ tests need no ONNX library.

namespace datasentinel::testing {

/// A protobuf message under construction.
class Message {
 public:
  Message& varint(unsigned field, std::uint64_t value) {
    write_varint(field << 3);
    write_varint(value);
    return *this;
  }
  Message& bytes(unsigned field, std::string_view value) {
    write_varint((field << 3) | 2);
    write_varint(value.size());
    text_.append(value);
    return *this;
  }
  Message& message(unsigned field, const Message& value) { return bytes(field, value.text_); }
  Message& real(unsigned field, float value) {
    write_varint((field << 3) | 5);
    write_fixed(std::bit_cast<std::uint32_t>(value));
    return *this;
  }
  Message& write_varint(std::uint64_t value) {
    while (value >= 0x80) {
      text_.push_back(static_cast<char>(static_cast<unsigned char>(value | 0x80)));
      value >>= 7;
    }
    text_.push_back(static_cast<char>(value));
    return *this;
  }
  Message& write_fixed(std::uint32_t value) {
    for (int i = 0; i < 4; ++i) text_.push_back(static_cast<char>((value >> (8 * i)) & 0xFF));
    return *this;
  }

  [[nodiscard]] const std::string& text() const { return text_; }
  [[nodiscard]] std::span<const std::byte> view() const { return std::as_bytes(std::span(text_)); }

 private:
  std::string text_;
};

inline Message float_tensor(std::string_view name, const std::vector<std::int64_t>& dims,
                            const std::vector<float>& values) {
  Message tensor;
  for (const auto dim : dims) tensor.varint(1, static_cast<std::uint64_t>(dim));
  Message raw;
  for (const float value : values) raw.write_fixed(std::bit_cast<std::uint32_t>(value));
  return tensor.varint(2, 1).bytes(8, name).bytes(9, raw.text());
}

inline Message int_tensor(std::string_view name, const std::vector<std::int64_t>& dims,
                          const std::vector<std::int64_t>& values) {
  Message tensor;
  for (const auto dim : dims) tensor.varint(1, static_cast<std::uint64_t>(dim));
  tensor.varint(2, 7).bytes(8, name);
  for (const auto value : values) tensor.varint(7, static_cast<std::uint64_t>(value));
  return tensor;
}

inline Message int_attribute(std::string_view name, std::int64_t value) {
  return Message().bytes(1, name).varint(3, static_cast<std::uint64_t>(value)).varint(20, 2);
}

inline Message float_attribute(std::string_view name, float value) {
  return Message().bytes(1, name).real(2, value).varint(20, 1);
}

inline Message text_attribute(std::string_view name, std::string_view value) {
  return Message().bytes(1, name).bytes(4, value).varint(20, 3);
}

inline Message ints_attribute(std::string_view name, const std::vector<std::int64_t>& values) {
  Message attribute;
  attribute.bytes(1, name);
  for (const auto value : values) attribute.varint(8, static_cast<std::uint64_t>(value));
  return attribute.varint(20, 7);
}

inline Message node(std::string_view op, const std::vector<std::string>& inputs,
                    const std::vector<std::string>& outputs, const std::vector<Message>& attributes = {},
                    std::string_view name = {}) {
  Message message;
  for (const auto& input : inputs) message.bytes(1, input);
  for (const auto& output : outputs) message.bytes(2, output);
  message.bytes(3, name).bytes(4, op);
  for (const auto& attribute : attributes) message.message(5, attribute);
  return message;
}

/// dims: -1 is a named dynamic dimension.
inline Message value_info(std::string_view name, const std::vector<std::int64_t>& dims, int type = 1) {
  Message shape;
  for (const auto dim : dims) {
    shape.message(
        1, dim < 0 ? Message().bytes(2, "batch") : Message().varint(1, static_cast<std::uint64_t>(dim)));
  }
  const Message tensor = Message().varint(1, static_cast<std::uint64_t>(type)).message(2, shape);
  return Message().bytes(1, name).message(2, Message().message(1, tensor));
}

/// A whole model. Call the adders, then `finish`.
class ModelBuilder {
 public:
  ModelBuilder& add(const Message& node) {
    graph_.message(1, node);
    return *this;
  }
  ModelBuilder& weight(const Message& tensor) {
    graph_.message(5, tensor);
    return *this;
  }
  ModelBuilder& input(const Message& value) {
    graph_.message(11, value);
    return *this;
  }
  ModelBuilder& output(const Message& value) {
    graph_.message(12, value);
    return *this;
  }
  [[nodiscard]] Message finish(std::int64_t opset = 18) const {
    const Message version = Message().bytes(1, "").varint(2, static_cast<std::uint64_t>(opset));
    return Message().varint(1, 8).message(7, graph_).message(8, version);
  }

 private:
  Message graph_;
};

}  // namespace datasentinel::testing
