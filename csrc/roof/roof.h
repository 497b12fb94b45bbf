#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace datasentinel::roof {

/// What one core can do with one instruction set, measured: the limit that every other number is held
/// against. 1 GFLOP/s is 1e9 additions or multiplications a second in float32, 1 GB/s is 1e9 bytes a second.
struct Roof {
  std::string isa;         ///< "avx512", "avx2", "neon" or "portable".
  double gflops = 0;       ///< Multiply-adds on registers only, two operations each.
  double l1_gb_s = 0;      ///< Reading half a first-level data cache again and again,
  double l2_gb_s = 0;      ///< half a second-level cache,
  double memory_gb_s = 0;  ///< and twice the last-level cache (64 to 256 MiB).
};

/// The instruction sets that can run here, the most capable first.
[[nodiscard]] std::vector<std::string> instruction_sets();

/// The multiply-add peak alone, in about `seconds`: the best of many short runs, since a disturbance can only
/// make a run slower. Throws Error{invalid_argument} for an instruction set that cannot run here.
[[nodiscard]] double measure_gflops(std::string_view isa, double seconds);

/// The whole roof of one instruction set, in about `seconds` and the time to touch the memory that it reads.
/// Throws as `measure_gflops`; std::bad_alloc when there is no room for the memory that it reads.
[[nodiscard]] Roof measure(std::string_view isa, double seconds);

/// The roofs of all instruction sets that can run here, in about `seconds` in all, the most capable first.
[[nodiscard]] std::vector<Roof> measure_all(double seconds);

}  // namespace datasentinel::roof
