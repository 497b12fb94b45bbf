#pragma once

#include <memory>
#include <string>

#include "core/backend.h"
#include "core/library_hint.h"

namespace datasentinel {

/// NVIDIA TensorRT through its C++ API. `library` names the folder that holds libnvinfer and the ONNX parser,
/// or libnvinfer itself; without a path the dynamic loader's own search finds them. Opened on first use.
///
/// What runs it is a module of our own, one for each major version of TensorRT, in `module_folder`; if that
/// is empty, beside the executable or shared object that holds this function.
[[nodiscard]] std::unique_ptr<Backend> make_tensorrt_backend(LibraryHint library,
                                                             std::string module_folder = {});

/// The TensorRT versions whose headers this build saw, a module each, e.g. "11.1 and 10.16"; "none" when it
/// was built without.
[[nodiscard]] std::string tensorrt_headers();

}  // namespace datasentinel
