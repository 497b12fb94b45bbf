#pragma once

#include <string>

#include "backends/fused/kernel_api.h"

namespace datasentinel::fused_cuda {

/// What every generated source starts with: helpers that NVRTC compiles without any header.
extern const char* const kPrelude;
/// How the blocks of a cluster wait for each other and write to each other's shared memory, where the
/// compute capability has clusters.
extern const char* const kClusterFunctions;

/// A float32 literal that is exactly `value`.
[[nodiscard]] std::string literal(float value);

/// The expression function(x). CUDA's own functions are used, which are within a few units in the last place.
[[nodiscard]] std::string function_of(const fused::FunctionCall& call, const std::string& x);

}  // namespace datasentinel::fused_cuda
