#pragma once

#include <string>
#include <vector>

namespace datasentinel {

/// The vector extensions that this CPU and operating system offer and that matter here, e.g. "avx2".
[[nodiscard]] std::vector<std::string> cpu_features();

}  // namespace datasentinel
