#include "backends/fused/links.h"

namespace datasentinel::fused {

Links::Links(const Program& program) : writers_(program.widths.size()), readers_(program.widths.size()) {
  for (std::size_t i = 0; i < program.instructions.size(); ++i) {
    const Instruction& step = program.instructions[i];
    writers_[static_cast<std::size_t>(step.out)].push_back(i);
    if (step.a >= 0) readers_[static_cast<std::size_t>(step.a)].push_back(i);
    if (step.b >= 0 && step.b != step.a) readers_[static_cast<std::size_t>(step.b)].push_back(i);
  }
}

}  // namespace datasentinel::fused
