#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "core/backend.h"

namespace datasentinel {

/// The backends by name, in order of preference. Filled once (backends/all.cpp), then only read.
class Registry {
 public:
  void add(std::unique_ptr<Backend> backend);

  /// Throws Error{invalid_argument} that lists the known names.
  [[nodiscard]] Backend& find(std::string_view name) const;

  [[nodiscard]] const std::vector<std::unique_ptr<Backend>>& all() const noexcept { return backends_; }

 private:
  std::vector<std::unique_ptr<Backend>> backends_;
};

}  // namespace datasentinel
