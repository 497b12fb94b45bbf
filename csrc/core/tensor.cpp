#include "core/tensor.h"

#include <bit>
#include <cstdint>

namespace datasentinel {
namespace {

constexpr std::uint32_t kExponentMask = 0x7F800000U;

// All exponent bits set means NaN or infinity. Integer tests, because they vectorise under strict
// floating-point rules and survive any fast-math flag.
constexpr bool is_non_finite(float value) noexcept {
  return (std::bit_cast<std::uint32_t>(value) & kExponentMask) == kExponentMask;
}

}  // namespace

std::optional<Cell> find_non_finite(ConstRows rows) noexcept {
  // One branch-free pass decides the common case; only a batch that really holds a bad value is searched.
  const std::size_t size = rows.size();
  std::uint32_t found = 0;
  for (std::size_t i = 0; i < size; ++i) found |= static_cast<std::uint32_t>(is_non_finite(rows.data[i]));
  if (found == 0) return std::nullopt;
  for (std::size_t i = 0; i < size; ++i) {
    if (is_non_finite(rows.data[i])) return Cell{i / rows.columns, i % rows.columns};
  }
  return std::nullopt;
}

void mean_squared_error(ConstRows input, const float* reconstructions, float* scores) noexcept {
  for (std::size_t i = 0; i < input.rows; ++i) {
    const float* x = input.row(i);
    const float* y = reconstructions + i * input.columns;
    double sum = 0.0;
    for (std::size_t j = 0; j < input.columns; ++j) {
      const double difference = static_cast<double>(x[j]) - static_cast<double>(y[j]);
      sum += difference * difference;
    }
    scores[i] = static_cast<float>(sum / static_cast<double>(input.columns));
  }
}

void squared_error_contributions(ConstRows input, const float* reconstructions,
                                 float* contributions) noexcept {
  for (std::size_t i = 0; i < input.size(); ++i) {
    const double difference = static_cast<double>(input.data[i]) - static_cast<double>(reconstructions[i]);
    contributions[i] = static_cast<float>(difference * difference / static_cast<double>(input.columns));
  }
}

}  // namespace datasentinel
