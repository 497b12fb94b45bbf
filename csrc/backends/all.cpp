#include "backends/all.h"

#include "backends/fused/backend.h"
#include "backends/fused_cuda/backend.h"
#include "backends/onnxruntime/backend.h"
#include "backends/tensorrt/backend.h"

namespace datasentinel {
namespace {

LibraryHint hint_for(const LibraryHints& libraries, const char* backend) {
  const auto found = libraries.find(backend);
  return found == libraries.end() ? LibraryHint{} : found->second;
}

}  // namespace

Registry make_registry(const LibraryHints& libraries) {
  Registry registry;
  registry.add(make_tensorrt_backend(hint_for(libraries, "tensorrt")));
  registry.add(make_fused_cuda_backend(hint_for(libraries, "fused-cuda")));
  registry.add(make_onnxruntime_cuda_backend(hint_for(libraries, "onnxruntime")));
  registry.add(make_onnxruntime_tensorrt_backend(hint_for(libraries, "onnxruntime")));
  registry.add(make_fused_backend());
  registry.add(make_onnxruntime_backend(hint_for(libraries, "onnxruntime")));
  return registry;
}

}  // namespace datasentinel
