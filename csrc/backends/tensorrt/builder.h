#pragma once

#include <string>

#include "backends/tensorrt/library.h"
#include "core/backend.h"
#include "core/engine_cache.h"

namespace datasentinel::tensorrt {

/// Batches up to this many rows run in the profile tuned for one row, larger ones in the profile for bulk.
inline constexpr int kSmallRows = 64;

/// What an engine is built for. An engine of TensorRT for RTX runs on any device of its compute capability,
/// which is all that counts of its target.
struct Target {
  int architecture = 0;          ///< e.g. 89 for compute capability 8.9
  std::string device_name = {};  ///< Empty: no device is at hand.
  int driver = 0;                ///< As the driver writes its version, e.g. 13010.
};

/// What an engine built from `model` with `options` would depend on.
[[nodiscard]] EngineKey key_of(const Model& model, const SessionOptions& options, const Library& library,
                               const Target& target);

/// Builds an engine: minutes for large models, seconds for small ones. Profile 0 is for small batches,
/// profile 1 for bulk; a graph with a fixed batch has none.
///
/// Throws Error{invalid_argument} for what the library does not offer, Error{unsupported_model} with the
/// parser's own words, Error{backend_failure}, or whatever `options.engine.progress` throws.
[[nodiscard]] Bytes build_engine(const Model& model, const SessionOptions& options, const Library& library,
                                 const Target& target, const EngineCache& cache);

}  // namespace datasentinel::tensorrt
