// Any bytes as model.onnx, lowered and, where that is little work, run.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "backends/fused/isa.h"
#include "backends/fused/lowering.h"
#include "backends/fused/session.h"
#include "core/error.h"
#include "onnx/graph.h"

namespace {

using namespace datasentinel;

bool is_little_work(const fused::Program& program) {
  std::size_t work = program.instructions.size();
  for (const std::size_t width : program.widths) work += width;
  for (const auto& step : program.instructions) work += step.dense.weights.size() * step.dense.windows;
  return work < 100'000;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const auto graph = onnx::read_graph({.name = "fuzzed", .onnx = std::as_bytes(std::span(data, size))});
    fused::Program program = fused::lower(graph);
    if (!is_little_work(program)) return 0;
    const bool reconstructs = program.output >= 0;
    const bool explains = program.contributions >= 0;
    fused::FusedSession session(std::move(program), fused::choose_instruction_set().kernels(), nullptr, 1);
    constexpr std::size_t kRows = 17;  // Odd, so that blocks meet their remainders.
    const std::size_t columns = session.input_dim();
    const std::vector<float> rows(kRows * columns, 0.5F);
    std::vector<float> scores(kRows);
    std::vector<float> outputs(kRows * columns);
    std::vector<float> contributions(kRows * columns);
    session.run({.data = rows.data(), .rows = kRows, .columns = columns},
                {.scores = scores.data(),
                 .reconstructions = reconstructs ? outputs.data() : nullptr,
                 .contributions = explains ? contributions.data() : nullptr});
  } catch (const Error&) {
  }
  return 0;
}
