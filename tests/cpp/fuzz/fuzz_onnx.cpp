// Any bytes as model.onnx: a graph, or an Error.

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/error.h"
#include "onnx/graph.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const auto graph =
        datasentinel::onnx::read_graph({.name = "fuzzed", .onnx = std::as_bytes(std::span(data, size))});
    static_cast<void>(graph.operators());
  } catch (const datasentinel::Error&) {
  }
  return 0;
}
