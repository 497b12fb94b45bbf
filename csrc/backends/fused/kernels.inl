// The kernels of one instruction set, from its simd_<isa>.h. Included inside an anonymous namespace, so that
// nothing compiled with these flags can be linked into other code. The order matters.

// clang-format off
#include "backends/fused/math.inl"
#include "backends/fused/dense.inl"
#include "backends/fused/distances.inl"
#include "backends/fused/trees.inl"
#include "backends/fused/selection.inl"
#include "backends/fused/rows_in_lanes.inl"
#include "backends/fused/columns_in_lanes.inl"
#include "backends/fused/near.inl"
#include "backends/fused/executor.inl"
// clang-format on
