#include "backends/fused/isa.h"
#include "backends/fused/kernels.h"

namespace datasentinel::fused {

std::vector<InstructionSet> instruction_sets() { return {{"portable", true, kernels_portable}}; }

}  // namespace datasentinel::fused
