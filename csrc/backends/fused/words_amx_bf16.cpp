#include <immintrin.h>

#include "backends/fused/kernels.h"

namespace datasentinel::fused {
namespace {

#define ADD_FEW(sums, inputs, weights) _tile_dpbf16ps(sums, inputs, weights)
#define ADD_PANEL(sums, weights, inputs) _tile_dpbf16ps(sums, weights, inputs)

#include "backends/fused/words_bf16.inl"
#include "backends/fused/words_tiles.inl"

constexpr WordKernels kKernels = {"bf16",   "amx_bf16",   kRows,      begin,         end,
                                  pack_few, multiply_few, pack_panel, multiply_panel};

}  // namespace

const WordKernels& bf16_amx() { return kKernels; }

}  // namespace datasentinel::fused
