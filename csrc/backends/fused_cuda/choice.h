#pragma once

#include <cstddef>
#include <functional>
#include <memory>

#include "backends/cuda/driver.h"
#include "backends/fused_cuda/precision.h"
#include "backends/fused_cuda/session.h"
#include "core/engine_cache.h"

namespace datasentinel::fused_cuda {

/// A program's kernels with `mma` and the same with `wgmma`.
struct Alternatives {
  std::function<std::unique_ptr<CudaSession>(TensorCores)> load;
  std::size_t rows = 0;  ///< Enough to tell which are faster.
  Precision precision = Precision::float32;
};

/// Loads those that DATASENTINEL_TENSOR_CORES names, otherwise the faster ones, with a fact that says why.
/// Throws Error{invalid_argument} for a name that is unknown.
///
/// The first time, both score made-up rows on the device. `wgmma` is taken if all its results agree with
/// those of `mma`, and it is faster; the verdict is kept under `key`. After some errors CUDA fails for the
/// rest of the process. So that the next one does not meet them again, the cache is told before `wgmma` is
/// loaded, and without a cache there is no trial.
[[nodiscard]] std::unique_ptr<CudaSession> load_faster(const Driver& driver, const EngineCache& cache,
                                                       const EngineKey& key,
                                                       const Alternatives& alternatives);

}  // namespace datasentinel::fused_cuda
