#include "wire/decimal.h"

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <system_error>

namespace datasentinel {
namespace {

constexpr bool is_digit(char c) noexcept { return c >= '0' && c <= '9'; }

/// The powers of ten that a double holds exactly.
constexpr std::array<double, 23> kPowersOfTen{1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                              1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                              1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

constexpr std::array<std::uint64_t, 9> kWholePowersOfTen{1,       10,        100,        1'000,      10'000,
                                                         100'000, 1'000'000, 10'000'000, 100'000'000};

/// digits * 10^exponent as the nearest float32, when two roundings in double arithmetic are sure to lead
/// there: the double is off by at most 1.5 of its last places, which matters only beside the middle between
/// two neighbouring float32.
bool round_quickly(std::uint64_t digits, int exponent, float& value) noexcept {
  if (digits == 0) {
    value = 0;
    return true;
  }
  if (exponent < -22 || exponent > 22) return false;
  const double whole = static_cast<double>(digits);
  const double wide = exponent < 0 ? whole / kPowersOfTen[static_cast<std::size_t>(-exponent)]
                                   : whole * kPowersOfTen[static_cast<std::size_t>(exponent)];
  if (wide > static_cast<double>(std::numeric_limits<float>::max())) return false;
  // A float32 keeps 24 of a double's 53 bits, so the middle is a one followed by 28 zeros. Nothing this large
  // is subnormal: it is at least 1e-22.
  constexpr std::uint64_t kDropped = (std::uint64_t{1} << 29) - 1;
  constexpr std::int64_t kMiddle = std::int64_t{1} << 28;
  const auto dropped = static_cast<std::int64_t>(std::bit_cast<std::uint64_t>(wide) & kDropped);
  if (dropped > kMiddle - 4 && dropped < kMiddle + 4) return false;
  value = static_cast<float>(wide);
  return true;
}

/// How many digits a number without sign has before its point once it is written without exponent; negative
/// when zeros follow the point.
std::int64_t power_of_ten(const char* at, const char* end) noexcept {
  std::int64_t power = 0;
  bool after_point = false;
  bool significant = false;
  for (; at != end && *at != 'e' && *at != 'E'; ++at) {
    if (*at == '.') {
      after_point = true;
      continue;
    }
    significant = significant || *at != '0';
    if (significant != after_point) power += significant ? 1 : -1;
  }
  if (at == end) return power;
  ++at;
  const bool down = *at == '-';
  if (down || *at == '+') ++at;
  std::int32_t exponent = 0;
  if (std::from_chars(at, end, exponent).ec != std::errc())
    exponent = std::numeric_limits<std::int32_t>::max();
  return down ? power - exponent : power + exponent;
}

/// The nearest float32 of a number without sign, whatever it takes.
Decimal round_carefully(const char* begin, const char* end, float& value) noexcept {
  if (std::from_chars(begin, end, value).ec != std::errc::result_out_of_range) return Decimal::good;
  // Too small is not a problem: its nearest float32 is zero or subnormal. from_chars does not say which side
  // it was. A double does, except beyond its own range.
  double wide = 0;
  if (std::from_chars(begin, end, wide).ec == std::errc()) {
    value = static_cast<float>(wide);
    return std::isfinite(value) ? Decimal::good : Decimal::out_of_range;
  }
  value = 0;
  return power_of_ten(begin, end) < 0 ? Decimal::good : Decimal::out_of_range;
}

/// The digits of a number as one whole number, for as long as 64 bits hold it: 19 digits always fit.
class Digits {
 public:
  /// Reads the digits at `at`; returns where they end.
  const char* read(const char* at, const char* end) noexcept {
    // Up to eight at a time: those before the first byte that is no digit, with zeros in front, are put
    // together by three multiplications (Lemire, "Number parsing at a gigabyte per second", 2021).
    while (std::endian::native == std::endian::little && end - at >= 8 && whole_ < kRoomForEight) {
      std::uint64_t word = 0;
      std::memcpy(&word, at, 8);
      const std::uint64_t others =
          ((word & 0xF0F0F0F0F0F0F0F0) | (((word + 0x0606060606060606) & 0xF0F0F0F0F0F0F0F0) >> 4)) ^
          0x3333333333333333;
      const int digits = std::countr_zero(others) / 8;
      if (digits == 0) return at;
      word = (word ^ 0x3030303030303030) << (64 - 8 * digits);
      word = word * 10 + (word >> 8);
      word = ((word & 0x000000FF000000FF) * 0x000F424000000064 +
              ((word >> 16) & 0x000000FF000000FF) * 0x0000271000000001) >>
             32;
      whole_ = whole_ * kWholePowersOfTen[static_cast<std::size_t>(digits)] + (word & 0xFFFFFFFF);
      at += digits;
      if (digits < 8) return at;
    }
    for (; at != end && is_digit(*at); ++at) {
      all_ = all_ && whole_ <= kRoomForOne;
      whole_ = 10 * whole_ + static_cast<std::uint64_t>(*at - '0');
    }
    return at;
  }

  [[nodiscard]] std::uint64_t whole() const noexcept { return whole_; }
  /// Whether none was lost.
  [[nodiscard]] bool all() const noexcept { return all_; }

 private:
  static constexpr std::uint64_t kMost = std::numeric_limits<std::uint64_t>::max();
  static constexpr std::uint64_t kRoomForOne = (kMost - 9) / 10;
  static constexpr std::uint64_t kRoomForEight = kMost / 100'000'000;

  std::uint64_t whole_ = 0;
  bool all_ = true;
};

}  // namespace

template <DecimalForm kForm>
Decimal read_float32(const char*& at, const char* end, float& value) noexcept {
  constexpr bool kStrict = kForm == DecimalForm::json;
  const char* next = at;
  const bool negative = next != end && *next == '-';
  if (negative || (!kStrict && next != end && *next == '+')) ++next;
  const char* const start = next;

  Digits digits;
  int exponent = 0;
  next = digits.read(next, end);
  std::ptrdiff_t count = next - start;
  if (kStrict && (count == 0 || (*start == '0' && count > 1))) return Decimal::not_a_number;
  if (next != end && *next == '.') {
    const char* const fraction = next + 1;
    next = digits.read(fraction, end);
    const std::ptrdiff_t size = next - fraction;
    if (kStrict && size == 0) return Decimal::not_a_number;
    count += size;
    exponent = -static_cast<int>(std::min<std::ptrdiff_t>(size, 1000));
  }
  if (count == 0) return Decimal::not_a_number;
  if (next != end && (*next == 'e' || *next == 'E')) {
    const char* power = next + 1;
    const bool down = power != end && *power == '-';
    if (power != end && (*power == '-' || *power == '+')) ++power;
    if (power == end || !is_digit(*power)) return Decimal::not_a_number;
    int size = 0;
    for (; power != end && is_digit(*power); ++power) size = std::min(10 * size + (*power - '0'), 100'000);
    exponent += down ? -size : size;
    next = power;
  }

  if (!digits.all() || !round_quickly(digits.whole(), exponent, value)) {
    if (const Decimal outcome = round_carefully(start, next, value); outcome != Decimal::good) return outcome;
  }
  if (negative) value = -value;
  at = next;
  return Decimal::good;
}

template Decimal read_float32<DecimalForm::json>(const char*&, const char*, float&) noexcept;
template Decimal read_float32<DecimalForm::any>(const char*&, const char*, float&) noexcept;

}  // namespace datasentinel
