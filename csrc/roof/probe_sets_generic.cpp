#include "roof/probe_sets.h"

namespace datasentinel::roof {

std::vector<Probes> probe_sets() { return {kPortableProbes}; }

}  // namespace datasentinel::roof
