#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace datasentinel {

/// The model that a path for inference names.
struct InferPath {
  std::string name;
  std::string version;  ///< Empty where the path names none.
};

/// Reads /v2/models/{name}[/versions/{version}]/infer, escapes resolved. Nothing for any other path.
[[nodiscard]] std::optional<InferPath> read_infer_path(std::string_view path);

}  // namespace datasentinel
