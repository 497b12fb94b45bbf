#include "onnx/external_data.h"

#include <array>
#include <cstdint>
#include <string>

#include "core/error.h"
#include "onnx/protobuf_reader.h"

// Field numbers are those of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).

namespace datasentinel::onnx {
namespace {

enum class Message : std::uint8_t {
  model,
  training,
  function,
  graph,
  node,
  attribute,
  sparse_tensor,
  tensor
};

/// Where a message of one kind holds messages of another.
struct Part {
  Message holder;
  std::uint32_t field;
  Message part;
};

constexpr auto kParts = [] {
  using enum Message;
  return std::array{
      Part{model, 7, graph},
      Part{model, 20, training},
      Part{model, 25, function},
      Part{training, 1, graph},
      Part{training, 2, graph},
      Part{function, 7, node},
      Part{function, 11, attribute},
      Part{graph, 1, node},
      Part{graph, 5, tensor},
      Part{graph, 15, sparse_tensor},
      Part{node, 5, attribute},
      Part{attribute, 5, tensor},
      Part{attribute, 6, graph},
      Part{attribute, 10, tensor},
      Part{attribute, 11, graph},
      Part{attribute, 22, sparse_tensor},
      Part{attribute, 23, sparse_tensor},
      Part{sparse_tensor, 1, tensor},
      Part{sparse_tensor, 2, tensor},
  };
}();

constexpr int kMaxDepth = 100;

void require_inside(std::span<const std::byte> message) {
  constexpr std::int64_t external = 1;
  std::string name;
  bool outside = false;
  ProtobufReader reader(message);
  while (const auto field = reader.next()) {
    if (field->number() == 8) name = field->as_string();
    outside = outside || field->number() == 13 || (field->number() == 14 && field->as_int64() == external);
  }
  if (outside) {
    throw Error(ErrorCode::invalid_model,
                "tensor \"" + name +
                    "\" keeps its data outside the model file; save the model with its weights inside");
  }
}

void walk(std::span<const std::byte> message, Message kind, int depth) {
  if (kind == Message::tensor) return require_inside(message);
  if (depth > kMaxDepth) throw Error(ErrorCode::invalid_model, "its subgraphs are nested too deeply");
  ProtobufReader reader(message);
  while (const auto field = reader.next()) {
    for (const Part& part : kParts) {
      if (part.holder == kind && part.field == field->number()) {
        walk(field->as_bytes(), part.part, depth + 1);
      }
    }
  }
}

}  // namespace

void require_self_contained(std::span<const std::byte> model) { walk(model, Message::model, 0); }

}  // namespace datasentinel::onnx
