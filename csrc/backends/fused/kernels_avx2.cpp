#include "backends/fused/kernels.h"
#include "backends/fused/simd_avx2.h"

namespace datasentinel::fused {
namespace {

#include "backends/fused/kernels.inl"

}  // namespace

const Kernels& kernels_avx2() { return kKernels; }

}  // namespace datasentinel::fused
