#pragma once

#include <cstddef>

namespace datasentinel::roof {

/// How many floats of `seeds` a `multiply_add` reads and writes at most, whatever the instruction set: 12
/// vectors of 16, or 24 of 4.
inline constexpr std::size_t kSeeds = 192;

/// Loops that nothing but one resource of the core limits, compiled for one instruction set.
struct Probes {
  const char* isa;
  bool supported;          ///< By this processor and its operating system.
  double flops_per_round;  ///< Of `multiply_add`.

  /// Independent multiply-adds on registers, enough of them to hide their latency: `rounds` times
  /// seed = seed * factor + term.
  void (*multiply_add)(long rounds, float factor, float term, float* seeds);

  /// Reads every byte once (`bytes` is a multiple of 512, `data` aligned to 64) and folds it into the result.
  int (*read)(const void* data, std::size_t bytes);
};

/// One entry point per instruction set, each in a file with compiler flags of its own.
void multiply_add_portable(long rounds, float factor, float term, float* seeds);
int read_portable(const void* data, std::size_t bytes);
void multiply_add_avx2(long rounds, float factor, float term, float* seeds);
int read_avx2(const void* data, std::size_t bytes);
void multiply_add_avx512(long rounds, float factor, float term, float* seeds);
int read_avx512(const void* data, std::size_t bytes);
void multiply_add_neon(long rounds, float factor, float term, float* seeds);
int read_neon(const void* data, std::size_t bytes);

inline constexpr std::size_t kAccumulators = 12;
/// Four units with a latency of four cycles, as large Arm cores have, need 16 multiply-adds under way.
inline constexpr std::size_t kNeonAccumulators = 24;

[[nodiscard]] constexpr double flops_per_round(std::size_t lanes, std::size_t accumulators = kAccumulators) {
  return 2.0 * static_cast<double>(accumulators * lanes);
}

}  // namespace datasentinel::roof
