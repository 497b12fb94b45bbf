#pragma once

#include <immintrin.h>

namespace datasentinel::fused {
namespace {

constexpr int kLanes = 16;
constexpr int kPanelColumns = 12;  // 24 accumulators + 2 of rows + 1 weight, of 32 registers
constexpr int kBlock = 256;
constexpr int kTileRows = 8;
constexpr int kTilePairs = 6;
constexpr int kTileSums = 24;
constexpr const char* kIsa = "avx512";

#include "backends/fused/simd_vector.inl"

/// Floats to multiply by, one at a time: loaded and repeated in every lane where they are needed.
template <int kCount>
using Factors = const float*;
template <int kCount>
FUSED_INLINE Factors<kCount> load_factors(const float* p) {
  return p;
}

FUSED_INLINE Vector fma(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
// The larger and the smaller; the second operand where either is NaN.
FUSED_INLINE Vector max(Vector a, Vector b) { return _mm512_max_ps(a, b); }
FUSED_INLINE Vector min(Vector a, Vector b) { return _mm512_min_ps(a, b); }
FUSED_INLINE Vector square_root(Vector v) { return _mm512_sqrt_ps(v); }
FUSED_INLINE Vector round_nearest(Vector v) {
  return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/// p[index] in each lane.
FUSED_INLINE Vector gather_lanes(const float* p, IntVector index) {
  return _mm512_i32gather_ps(reinterpret_cast<__m512i>(index), p, 4);
}
/// Lane group g (of four lanes) of the result is the four floats at column c of row first + 4 g.
template <typename Rows>
FUSED_INLINE Vector load_groups(const Rows& rows, long first, long c) {
  Vector v = _mm512_castps128_ps512(_mm_loadu_ps(rows(first) + c));
  v = _mm512_insertf32x4(v, _mm_loadu_ps(rows(first + 4) + c), 1);
  v = _mm512_insertf32x4(v, _mm_loadu_ps(rows(first + 8) + c), 2);
  return _mm512_insertf32x4(v, _mm_loadu_ps(rows(first + 12) + c), 3);
}
/// The inverse; null rows are left out.
template <typename Rows>
FUSED_INLINE void store_groups(Vector v, const Rows& rows, long first, long c) {
  if (float* row = rows(first)) _mm_storeu_ps(row + c, _mm512_castps512_ps128(v));
  if (float* row = rows(first + 4)) _mm_storeu_ps(row + c, _mm512_extractf32x4_ps(v, 1));
  if (float* row = rows(first + 8)) _mm_storeu_ps(row + c, _mm512_extractf32x4_ps(v, 2));
  if (float* row = rows(first + 12)) _mm_storeu_ps(row + c, _mm512_extractf32x4_ps(v, 3));
}
// Within each group of four lanes: a0 b0 a1 b1, a2 b2 a3 b3, a0 a1 b0 b1, a2 a3 b2 b3.
FUSED_INLINE Vector interleave_low(Vector a, Vector b) { return _mm512_unpacklo_ps(a, b); }
FUSED_INLINE Vector interleave_high(Vector a, Vector b) { return _mm512_unpackhi_ps(a, b); }
FUSED_INLINE Vector join_low(Vector a, Vector b) { return _mm512_shuffle_ps(a, b, _MM_SHUFFLE(1, 0, 1, 0)); }
FUSED_INLINE Vector join_high(Vector a, Vector b) { return _mm512_shuffle_ps(a, b, _MM_SHUFFLE(3, 2, 3, 2)); }

}  // namespace
}  // namespace datasentinel::fused
