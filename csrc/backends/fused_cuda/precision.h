#pragma once

#include <optional>
#include <string_view>

namespace datasentinel::fused_cuda {

/// What the network's layers are multiplied in; sums, and everything else, are float32.
enum class Precision { float32, tf32, bf16, fp16 };

/// The instructions that multiply in less than float32: those of a warp, or those of a warpgroup (four
/// warps), which compute capability 9.0 alone has.
enum class TensorCores { mma, wgmma };

[[nodiscard]] constexpr std::string_view to_string(Precision precision) noexcept {
  switch (precision) {
    case Precision::float32: return "float32";
    case Precision::tf32: return "tf32";
    case Precision::bf16: return "bf16";
    case Precision::fp16: return "fp16";
  }
  return "unknown";
}

[[nodiscard]] constexpr std::string_view to_string(TensorCores instructions) noexcept {
  return instructions == TensorCores::mma ? "mma" : "wgmma";
}

[[nodiscard]] constexpr std::optional<Precision> precision_of(std::string_view name) noexcept {
  for (const Precision precision : {Precision::float32, Precision::tf32, Precision::bf16, Precision::fp16}) {
    if (name == to_string(precision)) return precision;
  }
  return std::nullopt;
}

}  // namespace datasentinel::fused_cuda
