#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace datasentinel {

/// A stranger's text as a message may show it: printable ASCII, not too long.
[[nodiscard]] inline std::string quoted(std::string_view text, std::size_t max_bytes = 64) {
  std::string shown = "'";
  for (const char c : text.substr(0, max_bytes)) shown += (c >= ' ' && c <= '~') ? c : '?';
  if (text.size() > max_bytes) shown += "...";
  return shown + "'";
}

/// The error for a model that is not served; without a name, for the default one.
[[nodiscard]] inline std::string describe_missing_model(std::string_view name, std::string_view version) {
  if (name.empty()) return "no model is being served";
  std::string text = "unknown model " + quoted(name);
  if (!version.empty()) text += ", version " + quoted(version);
  return text;
}

}  // namespace datasentinel
