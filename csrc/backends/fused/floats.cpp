#include "backends/fused/floats.h"

#include <cmath>
#include <cstring>
#include <new>

#include "core/error.h"

namespace datasentinel::fused {

float to_float32(double value) {
  const auto narrow = std::abs(value) <= 3.4028235677973366e38 ? static_cast<float>(value) : HUGE_VALF;
  if (!std::isfinite(narrow)) {
    throw Error(
        ErrorCode::unsupported_model,
        "the fused backend cannot run this graph: its constants, combined, leave the range of float32");
  }
  return narrow;
}

FunctionCall power_of(double base) {
  constexpr int kBits = 12;
  const double exponent = std::log2(base);
  int scale = 0;
  const double fraction = std::frexp(exponent, &scale);
  const double high = std::ldexp(std::nearbyint(std::ldexp(fraction, kBits)), scale - kBits);
  return {.function = Function::power, .a = to_float32(high), .b = to_float32(exponent - high)};
}

AlignedFloats::AlignedFloats(std::size_t size) : size_(size) {
  if (size == 0) return;
  data_.reset(static_cast<float*>(::operator new(size * sizeof(float), std::align_val_t(kCacheLineBytes))));
  std::memset(data_.get(), 0, size * sizeof(float));
}

void AlignedFloats::Free::operator()(float* data) const noexcept {
  ::operator delete(data, std::align_val_t(kCacheLineBytes));
}

}  // namespace datasentinel::fused
