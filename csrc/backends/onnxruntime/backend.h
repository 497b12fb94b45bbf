#pragma once

#include <memory>

#include "core/backend.h"
#include "core/library_hint.h"

namespace datasentinel {

/// ONNX Runtime through its C API, out of the shared library named by `library`, opened on first use.
[[nodiscard]] std::unique_ptr<Backend> make_onnxruntime_backend(LibraryHint library);

/// The same library on its CUDA execution provider, and on nothing else: a graph of which some part would run
/// on the CPU is refused.
[[nodiscard]] std::unique_ptr<Backend> make_onnxruntime_cuda_backend(LibraryHint library);

/// Likewise on its TensorRT execution provider, which wants libnvinfer 10. "auto" leaves it out.
[[nodiscard]] std::unique_ptr<Backend> make_onnxruntime_tensorrt_backend(LibraryHint library);

}  // namespace datasentinel
