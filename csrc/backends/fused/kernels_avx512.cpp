#include "backends/fused/kernels.h"
#include "backends/fused/simd_avx512.h"

namespace datasentinel::fused {
namespace {

#include "backends/fused/kernels.inl"

}  // namespace

const Kernels& kernels_avx512() { return kKernels; }

}  // namespace datasentinel::fused
