#pragma once

// Four lanes of plain vector code: SSE2 on x86-64, scalar code where there are no vectors.

namespace datasentinel::fused {
namespace {

constexpr int kLanes = 4;
constexpr int kPanelColumns = 6;
constexpr int kBlock = 256;
constexpr int kTileRows = 4;
constexpr int kTilePairs = 6;
constexpr int kTileSums = 12;
constexpr const char* kIsa = "portable";

#include "backends/fused/simd_vector.inl"

/// Floats to multiply by, one at a time: loaded and repeated in every lane where they are needed.
template <int kCount>
using Factors = const float*;
template <int kCount>
FUSED_INLINE Factors<kCount> load_factors(const float* p) {
  return p;
}

FUSED_INLINE Vector fma(Vector a, Vector b, Vector c) { return a * b + c; }
// The larger and the smaller; the second operand where either is NaN.
FUSED_INLINE Vector max(Vector a, Vector b) { return a > b ? a : b; }
FUSED_INLINE Vector min(Vector a, Vector b) { return a < b ? a : b; }
FUSED_INLINE Vector square_root(Vector v) {
  for (int i = 0; i < kLanes; ++i) v[i] = __builtin_sqrtf(v[i]);
  return v;
}
/// To the nearest whole number, for |v| < 2^22.
FUSED_INLINE Vector round_nearest(Vector v) {
  const Vector magic = splat(12582912.0F);
  return (v + magic) - magic;
}

/// p[index] in each lane.
FUSED_INLINE Vector gather_lanes(const float* p, IntVector index) { return gather_one_by_one(p, index); }
/// Lane group g (of four lanes) of the result is the four floats at column c of row first + 4 g.
template <typename Rows>
FUSED_INLINE Vector load_groups(const Rows& rows, long first, long c) {
  return load(rows(first) + c);
}
/// The inverse; null rows are left out.
template <typename Rows>
FUSED_INLINE void store_groups(Vector v, const Rows& rows, long first, long c) {
  if (float* row = rows(first)) store(row + c, v);
}
// Within each group of four lanes: a0 b0 a1 b1, a2 b2 a3 b3, a0 a1 b0 b1, a2 a3 b2 b3.
FUSED_INLINE Vector interleave_low(Vector a, Vector b) { return __builtin_shufflevector(a, b, 0, 4, 1, 5); }
FUSED_INLINE Vector interleave_high(Vector a, Vector b) { return __builtin_shufflevector(a, b, 2, 6, 3, 7); }
FUSED_INLINE Vector join_low(Vector a, Vector b) { return __builtin_shufflevector(a, b, 0, 1, 4, 5); }
FUSED_INLINE Vector join_high(Vector a, Vector b) { return __builtin_shufflevector(a, b, 2, 3, 6, 7); }

}  // namespace
}  // namespace datasentinel::fused
