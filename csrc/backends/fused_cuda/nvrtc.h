#pragma once

#include <string>

#include "core/dynamic_library.h"
#include "core/engine_cache.h"

namespace datasentinel::fused_cuda {

/// NVRTC, the compiler that turns CUDA C++ text into code for a GPU. It needs no GPU. Its C API is small and
/// stable, so the few functions used are declared here instead of needing its header at build time.
class Nvrtc {
 public:
  /// Throws Error{unavailable} when the library does not load or is not NVRTC.
  explicit Nvrtc(const std::string& path);

  /// Compiles `source` for one architecture, e.g. "90" for compute capability 9.0, or "90a" for what it alone
  /// has; from CUDA 13 on with as many threads as there are cores. Throws Error{backend_failure} with the
  /// compiler's log.
  [[nodiscard]] Bytes compile(const std::string& source, const std::string& architecture) const;

  [[nodiscard]] const std::string& version() const noexcept { return version_; }
  [[nodiscard]] const std::string& path() const noexcept { return library_.path(); }

 private:
  DynamicLibrary library_;
  int major_ = 0;
  std::string version_;
};

}  // namespace datasentinel::fused_cuda
