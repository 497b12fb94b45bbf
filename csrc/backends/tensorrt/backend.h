#pragma once

#include <memory>

#include "core/backend.h"
#include "core/library_hint.h"

namespace datasentinel {

/// NVIDIA TensorRT through its C++ API. `library` names the folder that holds libnvinfer and the ONNX parser,
/// or libnvinfer itself; without a path the dynamic loader's own search finds them. Opened on first use.
[[nodiscard]] std::unique_ptr<Backend> make_tensorrt_backend(LibraryHint library);

/// The TensorRT version whose headers this build saw, e.g. "11.1"; "none" when it was built without.
[[nodiscard]] const char* tensorrt_headers() noexcept;

}  // namespace datasentinel
