#include "backends/fused/kernels.h"
#include "backends/fused/simd_avx512.h"

namespace datasentinel::fused {
namespace {

#include "backends/fused/dense.inl"
#include "backends/fused/executor.inl"
#include "backends/fused/layout.inl"
#include "backends/fused/math.inl"

}  // namespace

const Kernels& kernels_avx512() { return kKernels; }

}  // namespace datasentinel::fused
