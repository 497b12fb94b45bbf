#pragma once

#include <memory>

#include "core/backend.h"
#include "core/library_hint.h"

namespace datasentinel {

/// NVIDIA TensorRT 11 or TensorRT for RTX through its C++ API. `library` names the folder that holds it and
/// its ONNX parser, or the library itself; without a path the dynamic loader's own search finds them. Opened
/// on first use.
[[nodiscard]] std::unique_ptr<Backend> make_tensorrt_backend(LibraryHint library);

}  // namespace datasentinel
