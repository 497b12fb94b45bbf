#include "roof/probe_sets.h"

namespace datasentinel::roof {

std::vector<Probes> probe_sets() {
  return {{.isa = "portable",
           .supported = true,
           .flops_per_round = flops_per_round(4),
           .multiply_add = multiply_add_portable,
           .read = read_portable}};
}

}  // namespace datasentinel::roof
