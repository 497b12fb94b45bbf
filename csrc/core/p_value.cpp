#include "core/p_value.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "core/error.h"

namespace datasentinel {

PValueTable::PValueTable(std::vector<float> scores, std::vector<std::uint64_t> greater, std::uint64_t rows)
    : scores_(std::move(scores)) {
  const auto require = [](bool holds, const std::string& what) {
    if (!holds) throw Error(ErrorCode::invalid_argument, "table of p-values: " + what);
  };
  require(!scores_.empty(), "it holds no scores");
  require(scores_.size() == greater.size(),
          std::to_string(scores_.size()) + " scores, but " + std::to_string(greater.size()) + " counts");
  std::uint64_t above = rows;
  for (std::size_t i = 0; i < scores_.size(); ++i) {
    require(std::isfinite(scores_[i]) && (i == 0 || scores_[i] > scores_[i - 1]),
            "scores must be finite and ascending");
    require(greater[i] < above, "counts must be descending and less than the number of rows");
    above = greater[i];
  }
  p_values_.reserve(scores_.size() + 1);
  p_values_.push_back(1.0);
  for (const std::uint64_t count : greater) {
    p_values_.push_back(static_cast<double>(count + 1) / static_cast<double>(rows + 1));
  }
}

double PValueTable::p_value(float score) const noexcept {
  // Calibration scores >= score are those greater than the last knot below it, unless some were left out.
  const auto knot = std::lower_bound(scores_.begin(), scores_.end(), score);
  return p_values_[static_cast<std::size_t>(knot - scores_.begin())];
}

}  // namespace datasentinel
