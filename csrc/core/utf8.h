#pragma once

#include <string_view>

namespace datasentinel {

/// Is `text` valid UTF-8?
[[nodiscard]] bool is_utf8(std::string_view text) noexcept;

}  // namespace datasentinel
