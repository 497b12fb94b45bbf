#pragma once

#include <map>
#include <string>

#include "core/registry.h"

namespace datasentinel {

/// Where a backend's vendor library lies, by backend name. A missing entry leaves it to the backend.
using LibraryPaths = std::map<std::string, std::string>;

/// Every backend of this build, in order of preference. The one place that names them all.
[[nodiscard]] Registry make_registry(const LibraryPaths& library_paths);

}  // namespace datasentinel
