// The loops, for vectors of PROBE_LANES floats. Included by one file per instruction set, which defines
// PROBE_LANES, PROBE_ACCUMULATORS and PROBE_NAME(name). It uses no inline function of any library: compiled
// with newer instructions, such a function could replace the copy that runs on older processors.

#include "roof/probes.h"

namespace datasentinel::roof {
namespace {

using Floats = float __attribute__((vector_size(PROBE_LANES * sizeof(float))));
using Integers = int __attribute__((vector_size(PROBE_LANES * sizeof(int))));

constexpr std::size_t kSums = PROBE_ACCUMULATORS;
static_assert(kSums * PROBE_LANES <= kSeeds);

}  // namespace

void PROBE_NAME(multiply_add)(long rounds, float factor, float term, float* seeds) {
  const Floats x = Floats{} + factor;
  const Floats y = Floats{} + term;
  Floats sums[kSums];
  for (std::size_t k = 0; k < kSums; ++k) {
    __builtin_memcpy(&sums[k], seeds + k * PROBE_LANES, sizeof(Floats));
  }
  for (long round = 0; round < rounds; ++round) {
#pragma GCC unroll 24
    for (std::size_t k = 0; k < kSums; ++k) sums[k] = sums[k] * x + y;
  }
  for (std::size_t k = 0; k < kSums; ++k) {
    __builtin_memcpy(seeds + k * PROBE_LANES, &sums[k], sizeof(Floats));
  }
}

int PROBE_NAME(read)(const void* data, std::size_t bytes) {
  const auto* vectors = static_cast<const Integers*>(data);
  Integers folds[8] = {};
  for (std::size_t i = 0; i < bytes / sizeof(Integers); i += 8) {
#pragma GCC unroll 8
    for (std::size_t k = 0; k < 8; ++k) folds[k] |= vectors[i + k];
  }
  Integers all = {};
  for (const Integers& fold : folds) all |= fold;
  int result = 0;
  for (int lane = 0; lane < PROBE_LANES; ++lane) result |= all[lane];
  return result;
}

}  // namespace datasentinel::roof
