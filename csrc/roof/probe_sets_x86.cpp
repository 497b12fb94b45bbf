#include "roof/probe_sets.h"

namespace datasentinel::roof {

std::vector<Probes> probe_sets() {
  __builtin_cpu_init();
  // The compiler's run-time check asks the processor and whether the system saves the registers.
  const bool avx2 = __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") != 0;
  return {{.isa = "avx512",
           .supported = avx512,
           .flops_per_round = flops_per_round(16),
           .multiply_add = multiply_add_avx512,
           .read = read_avx512},
          {.isa = "avx2",
           .supported = avx2,
           .flops_per_round = flops_per_round(8),
           .multiply_add = multiply_add_avx2,
           .read = read_avx2},
          kPortableProbes};
}

}  // namespace datasentinel::roof
