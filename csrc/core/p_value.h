#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace datasentinel {

/// Conformal p-values: how rare a score is among the scores of calibration rows, all of them normal.
///
/// The full rule is p(s) = (1 + number of calibration scores >= s) / (1 + number of calibration scores),
/// which is a valid p-value for exchangeable rows (Vovk, Gammerman & Shafer, "Algorithmic Learning in a
/// Random World", 2005; Bates et al., "Testing for outliers with conformal p-values", 2023). The table holds
/// some of the calibration scores, the knots; between two knots it answers with the greatest p-value of that
/// stretch, so that leaving scores out can only make p-values larger.
///
/// Immutable, so any number of threads may share one.
class PValueTable {
 public:
  /// `scores`: the knots, finite and strictly ascending. `greater[i]`: how many calibration scores are
  /// strictly greater than `scores[i]`, strictly descending and less than `rows`. `rows`: how many
  /// calibration scores there are. Throws Error{invalid_argument}.
  PValueTable(std::vector<float> scores, std::vector<std::uint64_t> greater, std::uint64_t rows);

  /// In (0, 1], and never greater for a greater score.
  [[nodiscard]] double p_value(float score) const noexcept;

 private:
  std::vector<float> scores_;
  std::vector<double> p_values_;  ///< p_values_[i] holds up to the i-th knot, the last one beyond all knots.
};

}  // namespace datasentinel
