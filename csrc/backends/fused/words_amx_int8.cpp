#include <immintrin.h>

#include "backends/fused/kernels.h"

namespace datasentinel::fused {
namespace {

#define ADD_FEW(sums, inputs, weights) _tile_dpbusd(sums, inputs, weights)
#define ADD_PANEL(sums, weights, inputs) _tile_dpbsud(sums, weights, inputs)

#include "backends/fused/words_int8.inl"
#include "backends/fused/words_tiles.inl"

// A product of tiles takes as long for few rows as for 16, and whole numbers have the same sums however they
// are added.

bool fills_tiles(int few_rows) { return few_rows == 0 || few_rows > 2; }

void begin_tiles(int few_rows) {
  if (fills_tiles(few_rows)) begin(few_rows);
}

void multiply_few_rows(const Step& step, const float* in, int rows, long stride, float* out) {
  const auto multiply = fills_tiles(rows) ? multiply_few : int8_avx512().multiply_few;
  multiply(step, in, rows, stride, out);
}

constexpr WordKernels kKernels = {"int8",   "amx_int8",        kRows,      begin_tiles,   end,
                                  pack_few, multiply_few_rows, pack_panel, multiply_panel};

}  // namespace

const WordKernels& int8_amx() { return kKernels; }

}  // namespace datasentinel::fused
