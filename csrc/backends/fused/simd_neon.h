#pragma once

#include <arm_neon.h>

namespace datasentinel::fused {
namespace {

constexpr int kLanes = 4;
constexpr int kPanelColumns = 12;  // 24 accumulators + 2 of rows + 1 weight, of 32 registers
constexpr int kBlock = 256;
constexpr int kTileRows = 5;
constexpr int kTilePairs = 6;
constexpr int kTileSums = 20;  // and 4 of columns and 5 of rows
constexpr const char* kIsa = "neon";

#include "backends/fused/simd_vector.inl"

FUSED_INLINE Vector fma(Vector a, Vector b, Vector c) { return vfmaq_f32(c, a, b); }
// The larger and the smaller; the second operand where either is NaN, which FMAX and FMIN would return.
FUSED_INLINE Vector max(Vector a, Vector b) { return a > b ? a : b; }
FUSED_INLINE Vector min(Vector a, Vector b) { return a < b ? a : b; }
FUSED_INLINE Vector square_root(Vector v) { return vsqrtq_f32(v); }
FUSED_INLINE Vector round_nearest(Vector v) { return vrndnq_f32(v); }

/// Floats to multiply by, one at a time. FMLA multiplies by one lane of a register, so that four of them take
/// one load and one register.
template <int kCount>
struct Factors {
  static constexpr int kQuads = kCount / 4;
  Vector quads[kQuads + 1];
  const float* rest;

  FUSED_INLINE float operator[](int i) const {
    if (i >= 4 * kQuads) return rest[i];
    switch (i % 4) {  // A lane's number must be a literal.
      case 0: return vgetq_lane_f32(quads[i / 4], 0);
      case 1: return vgetq_lane_f32(quads[i / 4], 1);
      case 2: return vgetq_lane_f32(quads[i / 4], 2);
      default: return vgetq_lane_f32(quads[i / 4], 3);
    }
  }
};
template <int kCount>
FUSED_INLINE Factors<kCount> load_factors(const float* p) {
  Factors<kCount> factors;
  factors.rest = p;
#pragma GCC unroll 4
  for (int i = 0; i < factors.kQuads; ++i) {
    factors.quads[i] = load(p + 4 * i);
    asm("" : "+w"(factors.quads[i]));  // Or GCC loads the four one by one, for which it lacks registers.
  }
  return factors;
}

/// p[index] in each lane.
FUSED_INLINE Vector gather_lanes(const float* p, IntVector index) { return gather_one_by_one(p, index); }
/// Lane group g (of four lanes) of the result is the four floats at column c of row first + 4 g.
template <typename Rows>
FUSED_INLINE Vector load_groups(const Rows& rows, long first, long c) {
  return vld1q_f32(rows(first) + c);
}
/// The inverse; null rows are left out.
template <typename Rows>
FUSED_INLINE void store_groups(Vector v, const Rows& rows, long first, long c) {
  if (float* row = rows(first)) vst1q_f32(row + c, v);
}
// Within each group of four lanes: a0 b0 a1 b1, a2 b2 a3 b3, a0 a1 b0 b1, a2 a3 b2 b3.
FUSED_INLINE Vector interleave_low(Vector a, Vector b) { return vzip1q_f32(a, b); }
FUSED_INLINE Vector interleave_high(Vector a, Vector b) { return vzip2q_f32(a, b); }
FUSED_INLINE Vector join_low(Vector a, Vector b) { return __builtin_shufflevector(a, b, 0, 1, 4, 5); }
FUSED_INLINE Vector join_high(Vector a, Vector b) { return __builtin_shufflevector(a, b, 2, 3, 6, 7); }

}  // namespace
}  // namespace datasentinel::fused
