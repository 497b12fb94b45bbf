#include "backends/fused/kernels.h"
#include "backends/fused/simd_portable.h"

namespace datasentinel::fused {
namespace {

#include "backends/fused/dense.inl"
#include "backends/fused/executor.inl"
#include "backends/fused/layout.inl"
#include "backends/fused/math.inl"

}  // namespace

const Kernels& kernels_portable() { return kKernels; }

}  // namespace datasentinel::fused
