// Layers in words of bf16 on vectors.

#include <immintrin.h>

#include "backends/fused/kernels.h"

namespace datasentinel::fused {
namespace {

using Sums = __m512;

inline Sums zero_sums() { return _mm512_setzero_ps(); }
inline Sums add_products(Sums sums, __m512i a, __m512i b) {
  return _mm512_dpbf16_ps(sums, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
}

#include "backends/fused/words_bf16.inl"
#include "backends/fused/words_vectors.inl"

constexpr WordKernels kKernels = {"bf16",   "avx512_bf16", 24,         begin,         end,
                                  pack_few, multiply_few,  pack_panel, multiply_panel};

}  // namespace

const WordKernels& bf16_avx512() { return kKernels; }

}  // namespace datasentinel::fused
