#include "backends/all.h"

#include "backends/fused/backend.h"
#include "backends/onnxruntime/backend.h"
#include "backends/tensorrt/backend.h"

namespace datasentinel {
namespace {

std::string path_of(const LibraryPaths& paths, const char* backend) {
  const auto found = paths.find(backend);
  return found == paths.end() ? std::string() : found->second;
}

}  // namespace

Registry make_registry(const LibraryPaths& library_paths) {
  Registry registry;
  registry.add(make_tensorrt_backend());
  registry.add(make_fused_backend());
  registry.add(make_onnxruntime_backend(path_of(library_paths, "onnxruntime")));
  return registry;
}

}  // namespace datasentinel
