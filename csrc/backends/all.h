#pragma once

#include <map>
#include <string>

#include "core/library_hint.h"
#include "core/registry.h"

namespace datasentinel {

/// Vendor libraries by backend name.
using LibraryHints = std::map<std::string, LibraryHint>;

/// Every backend of this build, in order of preference. The one place that names them all.
[[nodiscard]] Registry make_registry(const LibraryHints& libraries);

}  // namespace datasentinel
