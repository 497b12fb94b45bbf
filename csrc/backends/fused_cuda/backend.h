#pragma once

#include <memory>

#include "core/backend.h"
#include "core/library_hint.h"

namespace datasentinel {

/// The fused chain as one generated CUDA kernel. `nvrtc` names the compiler; the driver is libcuda.so.1.
[[nodiscard]] std::unique_ptr<Backend> make_fused_cuda_backend(LibraryHint nvrtc);

}  // namespace datasentinel
