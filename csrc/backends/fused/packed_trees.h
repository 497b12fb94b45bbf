#pragma once

#include <cstddef>
#include <vector>

#include "backends/fused/floats.h"
#include "backends/fused/kernel_api.h"
#include "backends/fused/trees.h"

namespace datasentinel::fused {

/// A forest as the kernels of one instruction set walk it.
class PackedTrees {
 public:
  PackedTrees(Forest forest, const Geometry& geometry);

  [[nodiscard]] const Trees& view() const noexcept { return view_; }
  [[nodiscard]] std::size_t bytes() const noexcept { return nodes_.size() * sizeof(float); }
  /// That one row goes down.
  [[nodiscard]] std::size_t levels() const noexcept { return levels_; }

 private:
  AlignedFloats nodes_;  ///< Words, thresholds, leaves.
  std::vector<int> roots_;
  std::vector<int> depths_;
  std::size_t levels_ = 0;
  Trees view_;
};

}  // namespace datasentinel::fused
