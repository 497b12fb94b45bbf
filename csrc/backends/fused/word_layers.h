#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "backends/fused/program.h"

namespace datasentinel::fused {

/// Numbers that a word of 32 bits holds.
[[nodiscard]] constexpr std::size_t numbers_per_word(Arithmetic arithmetic) noexcept {
  return arithmetic == Arithmetic::int8 ? 4 : arithmetic == Arithmetic::bf16 ? 2 : 1;
}

/// Columns of packed values, which hold `inputs` numbers.
[[nodiscard]] std::size_t words_for(std::size_t inputs, Arithmetic arithmetic) noexcept;

/// Rounded to the nearest number in bf16, ties to even: the upper half of a float32.
[[nodiscard]] std::uint16_t to_bf16(float value) noexcept;

/// The program with its network's layers in words, or for int8 those whose weights and inputs are whole
/// numbers of eight bits; and the values that they read packed first.
[[nodiscard]] Program with_layers_in_words(Program program, Arithmetic arithmetic);

/// A layer's weights in words, [word][output], whole tiles of both: zeros beyond the layer.
struct WordMatrix {
  std::size_t words = 0;
  std::size_t columns = 0;
  std::vector<std::uint32_t> weights;
  std::vector<std::int32_t> sums;  ///< int8: of each column's weights.
};
[[nodiscard]] WordMatrix words_of(const Dense& layer, Arithmetic arithmetic);

}  // namespace datasentinel::fused
