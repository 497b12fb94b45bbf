#pragma once

#include <cstddef>
#include <memory>

#include "backends/fused/kernel_api.h"

namespace datasentinel::fused {

inline constexpr std::size_t kCacheLineBytes = 64;

/// Memory aligned to a cache line, so that packed weights and frames never straddle one.
class AlignedFloats {
 public:
  AlignedFloats() = default;
  explicit AlignedFloats(std::size_t size);  ///< Zeros.

  [[nodiscard]] float* data() const noexcept { return data_.get(); }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }

 private:
  struct Free {
    void operator()(float* data) const noexcept;
  };
  std::unique_ptr<float, Free> data_;
  std::size_t size_ = 0;
};

/// Throws Error{unsupported_model} when a folded constant leaves the range of float32.
[[nodiscard]] float to_float32(double value);

/// base^x for a positive base.
[[nodiscard]] FunctionCall power_of(double base);

}  // namespace datasentinel::fused
