#pragma once

#include "backends/tensorrt/runtime.h"
#include "core/backend.h"

namespace datasentinel::tensorrt {

/// The one symbol that a module (`_tensorrt10.so`, `_tensorrt11.so`) exports: the backend on `runtime`, which
/// is of the module's major version. It throws Error{unavailable} where the version does not suit it.
///
/// The majors' headers define different inline functions under the same names, which must not meet in one
/// shared object; hence a module for each. Extension and modules come out of one build by one compiler on one
/// shared libstdc++, which knows an exception by its type's name, so the core's classes, its exceptions and
/// standard types cross the border as they are.
/// A module stays open to the end of the process, since sessions and exceptions end in its code.
using ModuleFactory = Backend* (*)(Runtime&& runtime);
inline constexpr const char* kModuleFactoryName = "datasentinel_tensorrt_backend";

}  // namespace datasentinel::tensorrt
