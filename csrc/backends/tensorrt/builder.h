#pragma once

#include <string>

#include "backends/tensorrt/cuda.h"
#include "backends/tensorrt/library.h"
#include "core/backend.h"
#include "core/engine_cache.h"

namespace datasentinel::tensorrt {

/// Batches up to this many rows run in the profile tuned for one row, larger ones in the profile for bulk.
inline constexpr int kSmallRows = 64;

/// What an engine built from `model` with `options` would depend on.
[[nodiscard]] EngineKey key_of(const Model& model, const SessionOptions& options, const Library& library,
                               const Device& device);

/// Builds an engine: minutes for large models, seconds for small ones. Profile 0 is for small batches,
/// profile 1 for bulk; a graph with a fixed batch has none.
///
/// Throws Error{unsupported_model} with the parser's own words, Error{backend_failure}, or whatever
/// `options.engine.progress` throws.
[[nodiscard]] Bytes build_engine(const Model& model, const SessionOptions& options, const Library& library,
                                 const Device& device, const EngineCache& cache);

}  // namespace datasentinel::tensorrt
