#pragma once

#include <cstddef>
#include <vector>

namespace datasentinel::fused_cuda {

/// Collects constants in one array. Every entry starts at a multiple of four floats, and equal ones are kept
/// once, since several kernels use the same.
class Constants {
 public:
  std::size_t add(const std::vector<double>& values);
  std::size_t add(const std::vector<int>& values);
  /// Bits, as they are.
  std::size_t add(const std::vector<float>& values);

  /// [group of columns][k][column of the group], columns, and inputs up to `padded_inputs`, padded with
  /// zeros.
  std::size_t add_grouped(const std::vector<double>& weights, std::size_t inputs, std::size_t outputs,
                          std::size_t group, std::size_t padded_inputs);

  /// Of all entries so far, a multiple of four.
  [[nodiscard]] std::size_t size() const noexcept { return (floats_.size() + 3) / 4 * 4; }
  [[nodiscard]] std::vector<float> take();

 private:
  struct Entry {
    std::size_t start = 0;
    std::size_t size = 0;
  };
  std::vector<float> floats_;
  std::vector<Entry> entries_;
};

}  // namespace datasentinel::fused_cuda
