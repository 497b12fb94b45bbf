#pragma once

#include <memory>
#include <string>

#include "core/backend.h"

namespace datasentinel {

/// ONNX Runtime through its C API. `library_path` is the shared library to open on first use; empty means
/// that none was found.
[[nodiscard]] std::unique_ptr<Backend> make_onnxruntime_backend(std::string library_path);

}  // namespace datasentinel
