#include "core/histogram.h"

namespace datasentinel {

ScoringHistograms::ScoringHistograms()
    : batch_rows({1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192}),
      compute_s({1e-7, 2.5e-7, 5e-7, 1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3,
                 1e-2, 0.1, 1}) {}

}  // namespace datasentinel
