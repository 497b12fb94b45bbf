#include "core/histogram.h"

namespace datasentinel {
namespace {

/// Multiples of the threshold, dense where decisions are made. A threshold that is not positive gives no
/// scale, and decades stand in.
std::vector<double> score_bounds(double threshold) {
  if (threshold <= 0) return {0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6};
  std::vector<double> bounds = {0.01, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.85, 1, 1.2, 1.5, 2, 3, 5, 10, 100};
  for (double& bound : bounds) bound *= threshold;
  return bounds;
}

}  // namespace

ScoringHistograms::ScoringHistograms(double threshold)
    : batch_rows({1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192}),
      compute_s({1e-7, 2.5e-7, 5e-7, 1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3,
                 1e-2, 0.1, 1}),
      scores(score_bounds(threshold)) {}

}  // namespace datasentinel
