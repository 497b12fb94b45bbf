#include "backends/fused/network_layers.h"

#include <cstddef>

namespace datasentinel::fused {

std::vector<bool> network_layers(const Program& program) {
  std::vector<bool> layers(program.widths.size(), false);
  std::vector<bool> activated(program.widths.size(), false);
  std::vector<bool> to_be_activated(program.widths.size(), false);
  for (const Instruction& step : program.instructions) {
    if (step.op != Op::dense && step.op != Op::apply) continue;
    if (step.function.function == Function::identity) continue;
    activated[static_cast<std::size_t>(step.out)] = true;
    if (step.op == Op::apply) to_be_activated[static_cast<std::size_t>(step.a)] = true;
  }
  for (const Instruction& step : program.instructions) {
    if (step.op != Op::dense) continue;
    const auto out = static_cast<std::size_t>(step.out);
    const bool is_layer =
        activated[out] || to_be_activated[out] || activated[static_cast<std::size_t>(step.a)];
    layers[out] = is_layer && is_wide(step.dense);
  }
  return layers;
}

}  // namespace datasentinel::fused
