#pragma once

#include <cstddef>
#include <optional>

#include "backends/cuda/driver.h"
#include "backends/fused_cuda/layers.h"
#include "backends/fused_cuda/source.h"

namespace datasentinel::fused_cuda {

/// A kernel of a loaded module.
struct EntryPoint {
  Kernel kernel;
  void* function = nullptr;
  /// Blocks, or clusters, that run at a time. A block takes further rows in turn, a cluster one group of
  /// rows.
  unsigned most_blocks = 1;

  [[nodiscard]] std::size_t warps(unsigned blocks) const noexcept {
    return static_cast<std::size_t>(blocks) * static_cast<std::size_t>(kernel.blocks * kernel.threads) /
           kWarp;
  }
};

/// Which kernel scores how many rows.
class EntryPoints {
 public:
  /// Throws as cuda::Driver::check does.
  EntryPoints(const cuda::Driver& driver, void* module, const Kernels& kernels);

  [[nodiscard]] const EntryPoint& for_rows(std::size_t rows) const noexcept {
    if (rows <= spread_rows_) return *spread_;
    return rows <= few_rows_ ? few_ : bulk_;
  }
  /// Of any launch.
  [[nodiscard]] std::size_t most_warps() const noexcept;
  /// That share a few rows; one where none do.
  [[nodiscard]] int blocks_of_cluster() const noexcept { return spread_ ? spread_->kernel.blocks : 1; }

 private:
  EntryPoint few_, bulk_;
  std::optional<EntryPoint> spread_;
  std::size_t spread_rows_ = 0;  ///< Up to so many `spread_` is the fastest,
  std::size_t few_rows_ = 0;     ///< and up to so many `few_`.
};

}  // namespace datasentinel::fused_cuda
