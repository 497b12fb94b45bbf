#include "backends/fused_cuda/constants.h"

#include <cstring>
#include <utility>

#include "backends/fused/packed_program.h"

namespace datasentinel::fused_cuda {

std::size_t Constants::add(const std::vector<float>& values) {
  for (const Entry& entry : entries_) {
    // Compared as bytes: packed halves may look like NaN.
    if (entry.size == values.size() &&
        std::memcmp(floats_.data() + entry.start, values.data(), values.size() * sizeof(float)) == 0) {
      return entry.start;
    }
  }
  floats_.resize((floats_.size() + 3) / 4 * 4);
  entries_.push_back({.start = floats_.size(), .size = values.size()});
  floats_.insert(floats_.end(), values.begin(), values.end());
  return entries_.back().start;
}

std::size_t Constants::add(const std::vector<double>& values) {
  std::vector<float> floats;
  floats.reserve(values.size());
  for (const double value : values) floats.push_back(fused::to_float32(value));
  return add(floats);
}

std::size_t Constants::add(const std::vector<int>& values) {
  return add(std::vector<double>(values.begin(), values.end()));
}

std::size_t Constants::add_grouped(const std::vector<double>& weights, std::size_t inputs,
                                   std::size_t outputs, std::size_t group, std::size_t padded_inputs) {
  std::vector<double> grouped;
  for (std::size_t first = 0; first < outputs; first += group) {
    for (std::size_t k = 0; k < padded_inputs; ++k) {
      for (std::size_t c = first; c < first + group; ++c) {
        grouped.push_back(c < outputs && k < inputs ? weights[k * outputs + c] : 0.0);
      }
    }
  }
  return add(grouped);
}

std::vector<float> Constants::take() {
  floats_.resize((floats_.size() + 3) / 4 * 4);
  return std::move(floats_);
}

}  // namespace datasentinel::fused_cuda
