#include "onnx/external_data.h"

#include <array>
#include <cstdint>
#include <string>

#include "core/error.h"
#include "onnx/protobuf_reader.h"

// Field numbers are those of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).

namespace datasentinel::onnx {
namespace {

enum class Kind : std::uint8_t { model, training, function, graph, node, attribute, sparse_tensor, tensor };

/// Where a message of one kind holds messages of another.
struct Part {
  Kind holder;
  std::uint32_t field;
  Kind part;
};

constexpr std::array kParts{
    Part{Kind::model, 7, Kind::graph},
    Part{Kind::model, 20, Kind::training},
    Part{Kind::model, 25, Kind::function},
    Part{Kind::training, 1, Kind::graph},
    Part{Kind::training, 2, Kind::graph},
    Part{Kind::function, 7, Kind::node},
    Part{Kind::function, 11, Kind::attribute},
    Part{Kind::graph, 1, Kind::node},
    Part{Kind::graph, 5, Kind::tensor},
    Part{Kind::graph, 15, Kind::sparse_tensor},
    Part{Kind::node, 5, Kind::attribute},
    Part{Kind::attribute, 5, Kind::tensor},
    Part{Kind::attribute, 6, Kind::graph},
    Part{Kind::attribute, 10, Kind::tensor},
    Part{Kind::attribute, 11, Kind::graph},
    Part{Kind::attribute, 22, Kind::sparse_tensor},
    Part{Kind::attribute, 23, Kind::sparse_tensor},
    Part{Kind::sparse_tensor, 1, Kind::tensor},
    Part{Kind::sparse_tensor, 2, Kind::tensor},
};

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

void walk(std::span<const std::byte> message, Kind kind, int depth) {
  if (kind == Kind::tensor) return require_inside(message);
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

void require_self_contained(std::span<const std::byte> model) { walk(model, Kind::model, 0); }

}  // namespace datasentinel::onnx
