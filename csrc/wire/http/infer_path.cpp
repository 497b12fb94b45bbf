#include "wire/http/infer_path.h"

#include <charconv>
#include <cstddef>
#include <system_error>
#include <utility>

namespace datasentinel {
namespace {

/// A segment of a path with its escapes resolved, or nothing where they are broken.
std::optional<std::string> unescaped(std::string_view segment) {
  std::string text;
  for (std::size_t i = 0; i < segment.size(); ++i) {
    if (segment[i] != '%') {
      text += segment[i];
      continue;
    }
    unsigned value = 0;
    const std::string_view digits = segment.substr(i + 1, 2);
    const auto [stop, problem] = std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
    if (problem != std::errc() || digits.size() != 2 || stop != digits.data() + 2) return std::nullopt;
    text += static_cast<char>(value);
    i += 2;
  }
  return text;
}

}  // namespace

std::optional<InferPath> read_infer_path(std::string_view path) {
  constexpr std::string_view beginning = "/v2/models/";
  constexpr std::string_view versions = "/versions/";
  constexpr std::string_view ending = "/infer";
  if (!path.starts_with(beginning) || !path.ends_with(ending) ||
      path.size() <= beginning.size() + ending.size()) {
    return std::nullopt;
  }
  path = path.substr(beginning.size(), path.size() - beginning.size() - ending.size());
  const std::size_t slash = path.find('/');
  std::string_view version;
  if (slash != std::string_view::npos) {
    if (!path.substr(slash).starts_with(versions)) return std::nullopt;
    version = path.substr(slash + versions.size());
    if (version.empty() || version.find('/') != std::string_view::npos) return std::nullopt;
  }
  auto name = unescaped(path.substr(0, slash));
  auto number = unescaped(version);
  if (!name || name->empty() || !number) return std::nullopt;
  return InferPath{std::move(*name), std::move(*number)};
}

}  // namespace datasentinel
