#include "backends/fused/kernels.h"
#include "backends/fused/simd_portable.h"

namespace datasentinel::fused {
namespace {

#include "backends/fused/kernels.inl"

}  // namespace

const Kernels& kernels_portable() { return kKernels; }

}  // namespace datasentinel::fused
