#pragma once

#include <cstdint>

namespace datasentinel {

/// What a text is as a number.
enum class Decimal : std::uint8_t { good, not_a_number, out_of_range };

/// How numbers may be written.
enum class DecimalForm : std::uint8_t {
  json,  ///< As RFC 8259 has it.
  any,   ///< Also with a plus, with zeros in front, and with no digit on one side of the point.
};

/// Reads the decimal number that starts at `at`, rounded once to the nearest float32; what is too small for
/// one is zero or subnormal. Moves `at` behind the number if it is good.
template <DecimalForm kForm>
[[nodiscard]] Decimal read_float32(const char*& at, const char* end, float& value) noexcept;

}  // namespace datasentinel
