#include "onnx/graph.h"

#include <algorithm>
#include <set>
#include <utility>

#include "core/error.h"
#include "onnx/external_data.h"
#include "onnx/operators.h"
#include "onnx/protobuf_reader.h"
#include "onnx/tensor_reader.h"

// Field numbers are those of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).

namespace datasentinel::onnx {
namespace {

using Bytes = std::span<const std::byte>;

bool is_standard(std::string_view domain) noexcept { return domain.empty() || domain == "ai.onnx"; }

std::string text_of(Bytes bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }

Attribute read_attribute(Bytes message) {
  using Kind = Attribute::Kind;
  Attribute attribute;
  std::int64_t type = 0;
  ProtobufReader reader(message);
  while (const auto field = reader.next()) {
    switch (field->number()) {
      case 1: attribute.name = field->as_string(); break;
      case 2: attribute.real = field->as_float(); break;
      case 3: attribute.integer = field->as_int64(); break;
      case 4: attribute.text = text_of(field->as_bytes()); break;
      case 5: attribute.tensor = read_tensor(field->as_bytes()); break;
      case 7: field->append_to(attribute.reals); break;
      case 8: field->append_to(attribute.integers); break;
      case 9: attribute.texts.push_back(text_of(field->as_bytes())); break;
      case 20: type = field->as_int64(); break;
      default: break;
    }
  }
  switch (type) {  // AttributeProto.AttributeType
    case 1: attribute.kind = Kind::real; break;
    case 2: attribute.kind = Kind::integer; break;
    case 3: attribute.kind = Kind::text; break;
    case 4: attribute.kind = Kind::tensor; break;
    case 6: attribute.kind = Kind::reals; break;
    case 7: attribute.kind = Kind::integers; break;
    case 8: attribute.kind = Kind::texts; break;
    default: attribute.kind = Kind::other; break;
  }
  return attribute;
}

Node read_node(Bytes message) {
  Node node;
  ProtobufReader reader(message);
  while (const auto field = reader.next()) {
    switch (field->number()) {
      case 1: node.inputs.push_back(field->as_string()); break;
      case 2: node.outputs.push_back(field->as_string()); break;
      case 3: node.name = field->as_string(); break;
      case 4: node.op_type = field->as_string(); break;
      case 5: node.attributes.push_back(read_attribute(field->as_bytes())); break;
      case 7: node.domain = field->as_string(); break;
      default: break;
    }
  }
  if (is_standard(node.domain)) node.domain.clear();
  return node;
}

std::int64_t read_dimension(Bytes message) {
  std::int64_t dim = -1;
  ProtobufReader reader(message);
  while (const auto field = reader.next()) {
    if (field->number() == 1) dim = std::max<std::int64_t>(field->as_int64(), -1);
  }
  return dim;
}

void read_tensor_type(Bytes message, ValueInfo& value) {
  ProtobufReader reader(message);
  while (const auto field = reader.next()) {
    if (field->number() == 1) {
      value.type = static_cast<ElementType>(static_cast<std::int32_t>(field->as_int64()));
    } else if (field->number() == 2) {
      value.has_shape = true;
      ProtobufReader shape(field->as_bytes());
      while (const auto dim = shape.next()) {
        if (dim->number() == 1) value.dims.push_back(read_dimension(dim->as_bytes()));
      }
    }
  }
}

ValueInfo read_value_info(Bytes message) {
  ValueInfo value;
  ProtobufReader reader(message);
  while (const auto field = reader.next()) {
    if (field->number() == 1) {
      value.name = field->as_string();
    } else if (field->number() == 2) {
      ProtobufReader type(field->as_bytes());
      while (const auto kind = type.next()) {
        if (kind->number() == 1) read_tensor_type(kind->as_bytes(), value);
      }
    }
  }
  return value;
}

void add_constant(Graph& graph, Tensor tensor) {
  require_finite(tensor);
  const std::string name = tensor.name;
  if (name.empty()) throw Error(ErrorCode::invalid_model, "a tensor has no name");
  if (!graph.constants.emplace(name, std::move(tensor)).second) {
    throw Error(ErrorCode::invalid_model, "tensor \"" + name + "\" is defined twice");
  }
}

/// The value of a Constant node. Kinds that are not numbers become a tensor without elements.
Tensor constant_of(Node& node) {
  Tensor tensor;
  for (Attribute& attribute : node.attributes) {
    if (attribute.name == "value") {
      tensor = std::move(attribute.tensor);
    } else if (attribute.name == "value_float") {
      tensor.type = ElementType::float32;
      tensor.reals = {attribute.real};
    } else if (attribute.name == "value_int") {
      tensor.type = ElementType::int64;
      tensor.integers = {attribute.integer};
    } else if (attribute.name == "value_floats") {
      tensor.type = ElementType::float32;
      tensor.dims = {static_cast<std::int64_t>(attribute.reals.size())};
      tensor.reals.assign(attribute.reals.begin(), attribute.reals.end());
    } else if (attribute.name == "value_ints") {
      tensor.type = ElementType::int64;
      tensor.dims = {static_cast<std::int64_t>(attribute.integers.size())};
      tensor.integers = std::move(attribute.integers);
    }
  }
  tensor.name = node.outputs.front();
  return tensor;
}

void read_graph_message(Bytes message, Graph& graph) {
  ProtobufReader reader(message);
  while (const auto field = reader.next()) {
    switch (field->number()) {
      case 1: {
        Node node = read_node(field->as_bytes());
        if (node.op_type == "Constant" && node.domain.empty()) {
          require_constant(node);
          add_constant(graph, constant_of(node));
        } else {
          graph.nodes.push_back(std::move(node));
        }
        break;
      }
      case 5: add_constant(graph, read_tensor(field->as_bytes())); break;
      case 11: graph.inputs.push_back(read_value_info(field->as_bytes())); break;
      case 12: graph.outputs.push_back(read_value_info(field->as_bytes())); break;
      case 15: throw Error(ErrorCode::unsupported_model, "sparse initializers are not supported");
      default: break;
    }
  }
}

void read_opset(Bytes message, Graph& graph) {
  std::string domain;
  std::int64_t version = 0;
  ProtobufReader reader(message);
  while (const auto field = reader.next()) {
    if (field->number() == 1) domain = field->as_string();
    if (field->number() == 2) version = field->as_int64();
  }
  if (is_standard(domain)) graph.opset = version;
}

Graph read_model(Bytes message) {
  Graph graph;
  bool has_graph = false;
  ProtobufReader reader(message);
  while (const auto field = reader.next()) {
    switch (field->number()) {
      case 1: graph.ir_version = field->as_int64(); break;
      case 7:
        has_graph = true;
        read_graph_message(field->as_bytes(), graph);
        break;
      case 8: read_opset(field->as_bytes(), graph); break;
      default: break;
    }
  }
  if (!has_graph) throw Error(ErrorCode::invalid_model, "not a valid ONNX file: it holds no graph");
  if (graph.opset <= 0) {
    throw Error(ErrorCode::invalid_model, "not a valid ONNX file: it names no version of the operators");
  }
  std::erase_if(graph.inputs, [&](const ValueInfo& input) { return graph.constant(input.name) != nullptr; });
  require_well_formed(graph);
  return graph;
}

}  // namespace

std::string to_string(ElementType type) {
  switch (type) {
    case ElementType::undefined: return "undefined";
    case ElementType::float32: return "float32";
    case ElementType::uint8: return "uint8";
    case ElementType::int8: return "int8";
    case ElementType::uint16: return "uint16";
    case ElementType::int16: return "int16";
    case ElementType::int32: return "int32";
    case ElementType::int64: return "int64";
    case ElementType::string: return "string";
    case ElementType::boolean: return "bool";
    case ElementType::float16: return "float16";
    case ElementType::float64: return "float64";
    case ElementType::uint32: return "uint32";
    case ElementType::uint64: return "uint64";
    case ElementType::bfloat16: return "bfloat16";
  }
  return "type " + std::to_string(static_cast<std::int32_t>(type));
}

std::size_t Tensor::size() const noexcept {
  std::size_t size = 1;
  for (const std::int64_t dim : dims) size *= static_cast<std::size_t>(dim);
  return size;
}

const Attribute* Node::attribute(std::string_view wanted) const noexcept {
  const auto found = std::find_if(attributes.begin(), attributes.end(),
                                  [wanted](const Attribute& attribute) { return attribute.name == wanted; });
  return found == attributes.end() ? nullptr : &*found;
}

double Node::real_or(std::string_view wanted, double otherwise) const noexcept {
  const Attribute* found = attribute(wanted);
  return found == nullptr ? otherwise : found->real;
}

std::int64_t Node::integer_or(std::string_view wanted, std::int64_t otherwise) const noexcept {
  const Attribute* found = attribute(wanted);
  return found == nullptr ? otherwise : found->integer;
}

std::string Node::type() const { return domain.empty() ? op_type : domain + ":" + op_type; }

std::string Node::describe() const {
  if (!name.empty()) return type() + " \"" + name + "\"";
  return outputs.empty() ? type() : type() + " that computes \"" + outputs.front() + "\"";
}

const Tensor* Graph::constant(std::string_view name) const noexcept {
  const auto found = constants.find(name);
  return found == constants.end() ? nullptr : &found->second;
}

std::vector<std::string> Graph::operators() const {
  std::set<std::string> types;
  for (const Node& node : nodes) types.insert(node.type());
  return {types.begin(), types.end()};
}

Graph read_graph(const Model& model) {
  try {
    require_self_contained(model.onnx);
    return read_model(model.onnx);
  } catch (const Error& error) {
    throw Error(error.code(), std::string(model.name) + ": " + error.what());
  }
}

}  // namespace datasentinel::onnx
