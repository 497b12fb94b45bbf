#include "backends/fused/isa.h"
#include "backends/fused/kernels.h"

namespace datasentinel::fused {

std::vector<InstructionSet> instruction_sets() {
  __builtin_cpu_init();
  // The compiler's run-time check asks the processor and whether the system saves the registers.
  const bool avx2 = __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") != 0 &&
                      __builtin_cpu_supports("avx512bw") != 0 && __builtin_cpu_supports("avx512dq") != 0 &&
                      __builtin_cpu_supports("avx512vl") != 0;
  return {
      {"avx512", avx512, kernels_avx512}, {"avx2", avx2, kernels_avx2}, {"portable", true, kernels_portable}};
}

}  // namespace datasentinel::fused
