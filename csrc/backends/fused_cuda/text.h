#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace datasentinel::fused_cuda {

inline std::string text_of(std::size_t number) { return std::to_string(number); }

/// What names in a text stand for.
using Words = std::vector<std::pair<std::string_view, std::string>>;

/// `text` with every `@name@` replaced.
inline std::string fill(std::string_view text, const Words& words) {
  std::string filled;
  std::size_t at = 0;
  for (std::size_t open = text.find('@'); open != std::string_view::npos; open = text.find('@', at)) {
    const std::size_t close = text.find('@', open + 1);
    const std::string_view name = text.substr(open + 1, close - open - 1);
    filled += text.substr(at, open - at);
    for (const auto& [key, value] : words) {
      if (key == name) filled += value;
    }
    at = close + 1;
  }
  filled += text.substr(at);
  return filled;
}

}  // namespace datasentinel::fused_cuda
