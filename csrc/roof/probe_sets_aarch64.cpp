#include "roof/probe_sets.h"

namespace datasentinel::roof {

// Every 64-bit Arm processor has NEON.
std::vector<Probes> probe_sets() {
  return {{.isa = "neon",
           .supported = true,
           .flops_per_round = flops_per_round(4, kNeonAccumulators),
           .multiply_add = multiply_add_neon,
           .read = read_neon},
          kPortableProbes};
}

}  // namespace datasentinel::roof
