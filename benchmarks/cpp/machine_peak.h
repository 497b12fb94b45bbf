#pragma once

#include <string_view>

namespace datasentinel::bench {

/// What one core can do with one instruction set, measured: the roof over every other number.
struct Peak {
  double flops_per_s = 0;         ///< Multiply-adds on registers only, two operations each.
  double l1_bytes_per_s = 0;      ///< Reading 16 KiB again and again,
  double l2_bytes_per_s = 0;      ///< 256 KiB,
  double memory_bytes_per_s = 0;  ///< and 256 MiB.
};

/// `isa`: "avx512", "avx2" or "portable". Takes about `seconds`.
[[nodiscard]] Peak measure_peak(std::string_view isa, double seconds);

/// Its `flops_per_s` alone.
[[nodiscard]] double measure_flops(std::string_view isa, double seconds);

}  // namespace datasentinel::bench
