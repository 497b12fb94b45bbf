#include "backends/fused/isa.h"
#include "backends/fused/kernels.h"

namespace datasentinel::fused {

// Every 64-bit Arm processor has NEON.
std::vector<InstructionSet> instruction_sets() {
  return {{"neon", true, kernels_neon}, {"portable", true, kernels_portable}};
}

}  // namespace datasentinel::fused
