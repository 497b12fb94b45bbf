#include <cmath>
#include <limits>
#include <random>

#include "check.h"
#include "onnx/graph.h"
#include "onnx_builder.h"

namespace datasentinel {
namespace {

using onnx::ElementType;
using onnx::Graph;
using namespace testing;

Graph read(const Message& model) { return onnx::read_graph({.name = "model.onnx", .onnx = model.view()}); }

Message with_tensor(const Message& tensor) { return ModelBuilder().weight(tensor).finish(); }

ModelBuilder small_model() {
  return ModelBuilder()
      .input(value_info("input", {-1, 2}))
      .input(value_info("w", {2, 3}))
      .output(value_info("output", {-1, 3}))
      .weight(float_tensor("w", {2, 3}, {1, 2, 3, 4, 5, 6}))
      .add(node("Constant", {}, {"slope"}, {float_attribute("value_float", 0.5F)}))
      .add(node("Gemm", {"input", "w"}, {"hidden"}, {int_attribute("transB", 1), float_attribute("alpha", 2)},
                "first"))
      .add(node("Relu", {"hidden"}, {"output"}));
}

void reads_a_model() {
  const Graph graph = read(small_model().finish(17));
  CHECK(graph.opset == 17);
  CHECK(graph.ir_version == 8);
  CHECK(graph.inputs.size() == 1);  // "w" is an initializer
  CHECK(graph.inputs.at(0).name == "input");
  CHECK(graph.inputs.at(0).type == ElementType::float32);
  CHECK((graph.inputs.at(0).dims == std::vector<std::int64_t>{-1, 2}));
  CHECK(graph.outputs.at(0).name == "output");
  CHECK(graph.nodes.size() == 2);
  CHECK(graph.nodes.at(0).describe() == "Gemm \"first\"");
  CHECK(graph.nodes.at(1).describe() == "Relu that computes \"output\"");
  CHECK(graph.nodes.at(0).attribute("transB")->integer == 1);
  CHECK(graph.nodes.at(0).attribute("alpha")->real == 2.0F);
  CHECK(graph.nodes.at(0).attribute("beta") == nullptr);
  CHECK((graph.constant("w")->reals == std::vector<double>{1, 2, 3, 4, 5, 6}));
  CHECK(graph.constant("slope")->reals.at(0) == 0.5);
  CHECK(graph.constant("absent") == nullptr);
  CHECK((graph.operators() == std::vector<std::string>{"Gemm", "Relu"}));
}

void reads_every_number_type() {
  const auto raw = [](int type, std::string_view bytes) {
    const Graph graph = read(with_tensor(
        Message().varint(1, 1).varint(2, static_cast<std::uint64_t>(type)).bytes(8, "t").bytes(9, bytes)));
    const auto& tensor = *graph.constant("t");
    return tensor.reals.empty() ? static_cast<double>(tensor.integers.at(0)) : tensor.reals.at(0);
  };
  using namespace std::string_view_literals;
  CHECK(raw(1, "\0\0\xc0\x3f"sv) == 1.5);
  CHECK(raw(11, "\0\0\0\0\0\0\xf8\x3f"sv) == 1.5);
  CHECK(raw(10, "\0\x3e"sv) == 1.5);
  CHECK(raw(10, "\1\0"sv) == std::ldexp(1.0, -24));
  CHECK(raw(10, "\0\xc4"sv) == -4.0);
  CHECK(raw(16, "\xc0\x3f"sv) == 1.5);
  CHECK(raw(7, "\xfe\xff\xff\xff\xff\xff\xff\xff"sv) == -2);
  CHECK(raw(6, "\xfe\xff\xff\xff"sv) == -2);
  CHECK(raw(3, "\xfe"sv) == -2);
  CHECK(raw(2, "\xfe"sv) == 254);
  CHECK(raw(9, "\1"sv) == 1);
  // The typed fields, packed and one by one.
  Message packed;
  packed.write_fixed(std::bit_cast<std::uint32_t>(1.5F)).write_fixed(std::bit_cast<std::uint32_t>(2.0F));
  const Graph graph = read(
      ModelBuilder()
          .weight(Message().varint(1, 3).varint(2, 1).bytes(8, "floats").bytes(4, packed.text()).real(4, 3))
          .weight(int_tensor("ints", {2}, {-5, 7}))
          .weight(Message().varint(2, 10).bytes(8, "half").varint(5, 0x3e00))
          .finish());
  CHECK((graph.constant("floats")->reals == std::vector<double>{1.5, 2, 3}));
  CHECK((graph.constant("ints")->integers == std::vector<std::int64_t>{-5, 7}));
  CHECK(graph.constant("half")->reals.at(0) == 1.5);
}

void refuses_broken_models() {
  constexpr auto kInvalid = ErrorCode::invalid_model;
  CHECK_THROWS_WITH(kInvalid, "model.onnx", read(Message()));
  CHECK_THROWS_WITH(kInvalid, "holds no graph", read(Message().varint(1, 8)));
  CHECK_THROWS_WITH(kInvalid, "no version", read(Message().message(7, Message())));
  CHECK_THROWS_WITH(kInvalid, "cut off", read(Message().write_varint((7 << 3) | 2).write_varint(1U << 30)));
  CHECK_THROWS_WITH(kInvalid, "wire type", read(Message().write_varint((7 << 3) | 3)));
  CHECK_THROWS_WITH(kInvalid, "wire type", read(Message().varint(7, 1)));
  CHECK_THROWS_WITH(kInvalid, "impossible number", read(Message().write_varint(0)));
  CHECK_THROWS_WITH(
      kInvalid, "64 bits",
      read(Message().bytes(99, "").write_varint(8).write_fixed(~0U).write_fixed(~0U).write_fixed(~0U)));
  CHECK_THROWS_WITH(kInvalid, "UTF-8", read(with_tensor(Message().varint(2, 1).bytes(8, "\xff"))));

  CHECK_THROWS_WITH(kInvalid, "\"w\"", read(with_tensor(float_tensor("w", {3}, {1, 2}))));
  CHECK_THROWS_WITH(kInvalid, "negative", read(with_tensor(float_tensor("w", {-3}, {1, 2}))));
  CHECK_THROWS_WITH(kInvalid, "impossibly large",
                    read(with_tensor(float_tensor("w", {1LL << 40, 1LL << 40}, {1, 2}))));
  CHECK_THROWS_WITH(
      kInvalid, "twice",
      read(ModelBuilder().weight(float_tensor("w", {1}, {1})).weight(float_tensor("w", {1}, {1})).finish()));
  CHECK_THROWS_WITH(kInvalid, "outside the model file",
                    read(with_tensor(Message().varint(1, 1).varint(2, 1).bytes(8, "w").varint(14, 1))));
  // Wherever a runtime would find it: in a subgraph's initializers, an attribute's tensors, a function's
  // nodes.
  const Message outside = Message().varint(2, 1).bytes(8, "w").bytes(13, "location");
  const Message in_subgraph = Message().message(5, Message().message(6, Message().message(5, outside)));
  const Message in_tensors = Message().message(5, Message().message(10, outside));
  const Message in_sparse = Message().message(5, Message().message(22, Message().message(1, outside)));
  for (const Message& node : {in_subgraph, in_tensors, in_sparse}) {
    CHECK_THROWS_WITH(kInvalid, "outside the model file",
                      read(Message().message(7, Message().message(1, node))));
    CHECK_THROWS_WITH(kInvalid, "outside the model file",
                      read(Message().message(25, Message().message(7, node))));
  }
  Message nested;
  for (int depth = 0; depth < 200; ++depth) {
    nested = Message().message(1, Message().message(5, Message().message(6, nested)));
  }
  CHECK_THROWS_WITH(kInvalid, "nested too deeply", read(Message().message(7, nested)));
  const float infinity = std::numeric_limits<float>::infinity();
  CHECK_THROWS_WITH(kInvalid, "\"w\" is not finite: element 1",
                    read(with_tensor(float_tensor("w", {2}, {1, infinity}))));
  CHECK_THROWS_WITH(kInvalid, "not finite", read(with_tensor(float_tensor("w", {1}, {std::nanf("")}))));
  CHECK_THROWS_WITH(ErrorCode::unsupported_model, "sparse",
                    read(Message().message(7, Message().bytes(15, "")).message(8, Message().varint(2, 18))));
}

void refuses_graphs_that_are_none() {
  constexpr auto kInvalid = ErrorCode::invalid_model;
  const auto with_node = [](const Message& extra) { return small_model().add(extra).finish(); };
  CHECK_THROWS_WITH(kInvalid, "Abs that computes \"y\" has 0 inputs, not 1",
                    read(with_node(node("Abs", {}, {"y"}))));
  CHECK_THROWS_WITH(kInvalid, "has 1 inputs, not 2", read(with_node(node("Mul", {"input"}, {"y"}))));
  CHECK_THROWS_WITH(kInvalid, "has 3 inputs, not 2", read(with_node(node("Add", {"w", "w", "w"}, {"y"}))));
  CHECK_THROWS_WITH(kInvalid, "not at least 1", read(with_node(node("Concat", {}, {"y"}))));
  CHECK_THROWS_WITH(kInvalid, "has 0 outputs", read(with_node(node("Relu", {"input"}, {}))));
  CHECK_THROWS_WITH(kInvalid, "lacks input 1", read(with_node(node("Sub", {"input", ""}, {"y"}))));
  CHECK_THROWS_WITH(kInvalid, "\"axis\" of the wrong kind",
                    read(with_node(node("Concat", {"w"}, {"y"}, {float_attribute("axis", 1)}))));
  CHECK_THROWS_WITH(kInvalid, "where whole numbers belong",
                    read(with_node(node("Gather", {"input", "slope"}, {"y"}))));
  CHECK_THROWS_WITH(kInvalid, "reads \"nowhere\"", read(with_node(node("Relu", {"nowhere"}, {"y"}))));
  CHECK_THROWS_WITH(kInvalid, "\"hidden\", which is there already",
                    read(with_node(node("Relu", {"input"}, {"hidden"}))));
  CHECK_THROWS_WITH(kInvalid, "nothing computes the output",
                    read(small_model().output(value_info("score", {-1})).finish()));
  CHECK_THROWS_WITH(kInvalid, "is an input twice",
                    read(small_model().input(value_info("input", {-1, 2})).finish()));
  CHECK_THROWS_WITH(kInvalid, "needs exactly one value", read(with_node(node("Constant", {}, {"y"}))));
  CHECK_THROWS_WITH(kInvalid, "has no name", read(with_tensor(float_tensor("", {1}, {1}))));
  // An operator of somebody else's, and an optional input left out, are none of our business.
  CHECK(read(with_node(node("Clip", {"input", "", "slope"}, {"y"}))).nodes.size() == 3);
  CHECK(read(with_node(node("Unheard", {}, {"y"}))).nodes.size() == 3);
}

/// Whatever the bytes, reading ends in a graph or in an Error (run it under the sanitizers).
void survives_damage() {
  const std::string good = small_model().finish().text();
  std::size_t refused = 0;
  const auto attempt = [&refused](std::string_view text) {
    try {
      const Graph graph = onnx::read_graph({.name = "damaged", .onnx = std::as_bytes(std::span(text))});
      CHECK(graph.opset > 0);
    } catch (const Error&) {
      ++refused;
    }
  };
  for (std::size_t size = 0; size < good.size(); ++size) attempt(std::string_view(good).substr(0, size));
  CHECK(refused > good.size() / 2);
  std::mt19937 random(7);
  for (int round = 0; round < 20000; ++round) {
    std::string bad = good;
    for (unsigned change = 0; change < 1 + round % 4U; ++change) {
      bad[random() % bad.size()] = static_cast<char>(random());
    }
    attempt(bad);
  }
}

}  // namespace
}  // namespace datasentinel

int main() {
  datasentinel::reads_a_model();
  datasentinel::reads_every_number_type();
  datasentinel::refuses_broken_models();
  datasentinel::refuses_graphs_that_are_none();
  datasentinel::survives_damage();
  return datasentinel::check::result();
}
