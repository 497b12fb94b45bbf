#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

namespace datasentinel::fused {

/// One number per column; empty where all of them are what the user of them says.
using Constants = std::vector<double>;

inline double at(const Constants& constants, std::size_t index, double otherwise) {
  return constants.empty() ? otherwise : constants[index];
}

/// constants (empty: all `otherwise`) combined with `other`, element by element.
template <typename Operation>
void combine(Constants& constants, double otherwise, const Constants& other, Operation operation) {
  if (constants.empty()) constants.assign(other.size(), otherwise);
  for (std::size_t i = 0; i < other.size(); ++i) constants[i] = operation(constants[i], other[i]);
}

inline void multiply_by(Constants& constants, const Constants& other) {
  combine(constants, 1.0, other, [](double x, double y) { return x * y; });
}

inline bool all_equal(const Constants& constants) {
  return std::all_of(constants.begin(), constants.end(), [&](double x) { return x == constants.front(); });
}

/// Whether they are the same for every `period` columns, as a layer on many windows has them.
inline bool repeats(const Constants& constants, std::size_t period) {
  for (std::size_t i = period; i < constants.size(); ++i) {
    if (constants[i] != constants[i - period]) return false;
  }
  return true;
}

}  // namespace datasentinel::fused
