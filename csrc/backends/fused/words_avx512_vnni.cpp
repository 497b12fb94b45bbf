// Layers in words of eight bits on vectors.

#include <immintrin.h>

#include "backends/fused/kernels.h"

namespace datasentinel::fused {
namespace {

using Sums = __m512i;

inline Sums zero_sums() { return _mm512_setzero_si512(); }
inline Sums add_products(Sums sums, __m512i inputs, __m512i weights) {
  return _mm512_dpbusd_epi32(sums, inputs, weights);
}

#include "backends/fused/words_int8.inl"
#include "backends/fused/words_vectors.inl"

constexpr WordKernels kKernels = {"int8",   "avx512_vnni", 24,         begin,         end,
                                  pack_few, multiply_few,  pack_panel, multiply_panel};

}  // namespace

const WordKernels& int8_avx512() { return kKernels; }

}  // namespace datasentinel::fused
