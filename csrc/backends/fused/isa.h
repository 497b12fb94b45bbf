#pragma once

#include <string>
#include <vector>

#include "backends/fused/kernel_api.h"

namespace datasentinel::fused {

/// Code for one instruction set that this build contains.
struct InstructionSet {
  std::string name;
  bool supported;  ///< By this processor and its operating system.
  const Kernels& (*kernels)();
  const WordKernels& (*bf16)() = nullptr;  ///< Null where it has none.
  const WordKernels& (*int8)() = nullptr;
};

/// In order of preference; the last one, "portable", is always supported. isa_<processor>.cpp, or
/// isa_generic.cpp.
[[nodiscard]] std::vector<InstructionSet> instruction_sets();

/// That of this processor, or the one that the environment variable DATASENTINEL_ISA names. Throws
/// Error{invalid_argument} for an unknown name, Error{unavailable} for one the processor lacks.
[[nodiscard]] InstructionSet choose_instruction_set();

}  // namespace datasentinel::fused
