#include "backends/fused/kernels.h"
#include "backends/fused/simd_neon.h"

namespace datasentinel::fused {
namespace {

#include "backends/fused/kernels.inl"

}  // namespace

const Kernels& kernels_neon() { return kKernels; }

}  // namespace datasentinel::fused
