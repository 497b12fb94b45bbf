#pragma once

#include <cstddef>
#include <utility>
#include <vector>

#include "backends/fused/packed_program.h"

namespace datasentinel::fused_cuda {

/// Collects constants in one array; every entry starts at a multiple of four floats.
class Constants {
 public:
  std::size_t add(const std::vector<double>& values) {
    const std::size_t start = begin();
    for (const double value : values) floats_.push_back(fused::to_float32(value));
    return start;
  }

  std::size_t add(const std::vector<int>& values) {
    return add(std::vector<double>(values.begin(), values.end()));
  }

  /// [group of columns][k][column of the group], columns padded with zeros.
  std::size_t add_grouped(const std::vector<double>& weights, std::size_t inputs, std::size_t outputs,
                          std::size_t group) {
    const std::size_t start = begin();
    for (std::size_t first = 0; first < outputs; first += group) {
      for (std::size_t k = 0; k < inputs; ++k) {
        for (std::size_t c = first; c < first + group; ++c) {
          floats_.push_back(c < outputs ? fused::to_float32(weights[k * outputs + c]) : 0.0F);
        }
      }
    }
    return start;
  }

  [[nodiscard]] std::vector<float> take() {
    begin();
    return std::move(floats_);
  }

 private:
  std::size_t begin() {
    while (floats_.size() % 4 != 0) floats_.push_back(0.0F);
    return floats_.size();
  }

  std::vector<float> floats_;
};

}  // namespace datasentinel::fused_cuda
