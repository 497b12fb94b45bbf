#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/backend.h"

namespace datasentinel::onnx {

/// Numbers as in onnx.proto (TensorProto.DataType). Values outside of this list may occur.
enum class ElementType : std::int32_t {
  undefined = 0,
  float32 = 1,
  uint8 = 2,
  int8 = 3,
  uint16 = 4,
  int16 = 5,
  int32 = 6,
  int64 = 7,
  string = 8,
  boolean = 9,
  float16 = 10,
  float64 = 11,
  uint32 = 12,
  uint64 = 13,
  bfloat16 = 16,
};

[[nodiscard]] std::string to_string(ElementType type);

/// A constant. Floating-point elements are in `reals`, widened to float64 without loss; whole numbers and
/// booleans are in `integers`. Element types other than those named above leave both empty.
struct Tensor {
  std::string name;
  ElementType type = ElementType::undefined;
  std::vector<std::int64_t> dims;
  std::vector<double> reals;
  std::vector<std::int64_t> integers;

  /// The product of `dims`: 1 for a scalar.
  [[nodiscard]] std::size_t size() const noexcept;
};

struct Attribute {
  enum class Kind { other, real, integer, text, tensor, reals, integers, texts };

  std::string name;
  Kind kind = Kind::other;  ///< `other`: graphs, lists of tensors, references; not read.
  float real = 0;
  std::int64_t integer = 0;
  std::string text;
  Tensor tensor;
  std::vector<float> reals;
  std::vector<std::int64_t> integers;
  std::vector<std::string> texts;
};

struct Node {
  std::string op_type;
  std::string name;
  std::string domain;               ///< Empty for the standard operators.
  std::vector<std::string> inputs;  ///< An empty name is an optional input left out.
  std::vector<std::string> outputs;
  std::vector<Attribute> attributes;

  [[nodiscard]] const Attribute* attribute(std::string_view wanted) const noexcept;
  /// The attribute's number, or `otherwise` where the node does not have it.
  [[nodiscard]] double real_or(std::string_view wanted, double otherwise) const noexcept;
  [[nodiscard]] std::int64_t integer_or(std::string_view wanted, std::int64_t otherwise) const noexcept;
  /// The operator, with its domain where that is not the standard one: "Gemm", "ai.onnx.ml:Scaler".
  [[nodiscard]] std::string type() const;
  /// e.g. `Gemm "encoder/0"`, for messages.
  [[nodiscard]] std::string describe() const;
};

struct ValueInfo {
  std::string name;
  ElementType type = ElementType::undefined;
  bool has_shape = false;
  std::vector<std::int64_t> dims;  ///< -1 where the size is decided at run time.
};

/// What an ONNX file says, with all names resolved to values: no wire format left.
struct Graph {
  std::int64_t ir_version = 0;
  std::int64_t opset = 0;                                ///< Version of the standard operators.
  std::vector<Node> nodes;                               ///< In file order, without Constant nodes.
  std::map<std::string, Tensor, std::less<>> constants;  ///< Initializers and Constant nodes, all finite.
  std::vector<ValueInfo> inputs;  ///< Without initializers, which old files list as inputs too.
  std::vector<ValueInfo> outputs;

  [[nodiscard]] const Tensor* constant(std::string_view name) const noexcept;
  /// The distinct operator types, sorted.
  [[nodiscard]] std::vector<std::string> operators() const;
};

/// Reads a serialised ONNX model. Safe on any bytes; memory use is bounded by the file's size. Throws
/// Error{invalid_model} for a malformed file, a graph that is not well-formed (see operators.h), a tensor
/// whose data and shape disagree, data kept outside the file, or a constant that is not finite (naming it);
/// Error{unsupported_model} for sparse initializers.
[[nodiscard]] Graph read_graph(const Model& model);

}  // namespace datasentinel::onnx
