#pragma once

#include <cstddef>
#include <vector>

#include "backends/fused/program.h"

namespace datasentinel::fused {

/// Which steps of a program write and read each value, found once for all who ask.
class Links {
 public:
  using Positions = std::vector<std::size_t>;

  explicit Links(const Program& program);

  /// Positions of steps, in their order.
  [[nodiscard]] const Positions& writers(int value) const {
    return writers_[static_cast<std::size_t>(value)];
  }
  [[nodiscard]] const Positions& readers(int value) const {
    return readers_[static_cast<std::size_t>(value)];
  }

 private:
  std::vector<Positions> writers_, readers_;  ///< By value.
};

}  // namespace datasentinel::fused
