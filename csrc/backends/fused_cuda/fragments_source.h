#pragma once

#include <cstddef>
#include <optional>

#include "backends/fused/program.h"
#include "backends/fused_cuda/precision.h"
#include "backends/fused_cuda/source.h"

namespace datasentinel::fused_cuda {

/// The source of a program whose values are `InFragments`: each warp takes rows for itself, copies the next
/// ones while it works on these, and waits for no other warp. None where a program cannot be run like that:
/// its values have to fit into registers, its weights into a block's shared memory.
[[nodiscard]] std::optional<Source> source_in_fragments(const fused::Program& program,
                                                        std::size_t shared_bytes, Precision precision,
                                                        TensorCores instructions);

}  // namespace datasentinel::fused_cuda
