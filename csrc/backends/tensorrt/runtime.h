#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/dynamic_library.h"
#include "core/library_hint.h"

namespace datasentinel::tensorrt {

struct Version {
  int major = 0;
  int minor = 0;
  int patch = 0;

  [[nodiscard]] std::string text() const;
};

/// libnvinfer or its lean form, opened, and the version that it gives itself.
struct Runtime {
  explicit Runtime(DynamicLibrary opened);

  DynamicLibrary library;
  Version version;
};

/// Opens libnvinfer of one of the `majors`, the first of them that is there; the lean form, which builds no
/// engines, only where the full one of none is. A hint that names a file is opened whatever its version.
///
/// Throws Error{unavailable} where a library is there and does not load.
[[nodiscard]] std::optional<Runtime> find_runtime(const LibraryHint& hint, const std::vector<int>& majors);

/// The file names of libnvinfer, of whatever major version, in `folder`, as a list for a message.
[[nodiscard]] std::string runtimes_in(const std::string& folder);

}  // namespace datasentinel::tensorrt
