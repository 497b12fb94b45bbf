#include "backends/fused/isa.h"

#include <cstdlib>

#include "core/error.h"

namespace datasentinel::fused {

InstructionSet choose_instruction_set() {
  const char* forced = std::getenv("DATASENTINEL_ISA");
  const bool is_forced = forced != nullptr && *forced != '\0';
  std::string known;
  for (const InstructionSet& set : instruction_sets()) {
    if (!is_forced && set.supported) return set;
    if (is_forced && set.name == forced) {
      if (set.supported) return set;
      throw Error(ErrorCode::unavailable,
                  "DATASENTINEL_ISA=" + set.name + ", but this processor does not have that instruction set");
    }
    known += (known.empty() ? "" : ", ") + set.name;
  }
  throw Error(ErrorCode::invalid_argument,
              "DATASENTINEL_ISA=" + std::string(forced) + " is not one of " + known);
}

}  // namespace datasentinel::fused
