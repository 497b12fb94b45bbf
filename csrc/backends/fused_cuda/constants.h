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

  /// [group of columns][k][column of the group], columns padded with zeros.
  std::size_t add_grouped(const std::vector<double>& weights, std::size_t inputs, std::size_t outputs,
                          std::size_t group);

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
