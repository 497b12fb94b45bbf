#include "backends/tensorrt/runtime.h"

#include <array>
#include <cstdint>
#include <filesystem>
#include <utility>

#include "core/error.h"

namespace datasentinel::tensorrt {
namespace {

namespace fs = std::filesystem;

/// In order of preference: the lean form runs engines and builds none.
constexpr std::array kStems = {"libnvinfer.so.", "libnvinfer_lean.so."};

Version version_of(const DynamicLibrary& library) {
  const int number = library.symbol<std::int32_t (*)() noexcept>("getInferLibVersion")();
  const int minors = number < 10000 ? 10 : 100;  // 8601 is 8.6.1, 101601 is 10.16.1.
  return {.major = number / 100 / minors, .minor = number / 100 % minors, .patch = number % 100};
}

}  // namespace

std::string Version::text() const {
  return std::to_string(major) + "." + std::to_string(minor) + "." + std::to_string(patch);
}

Runtime::Runtime(DynamicLibrary opened) : library(std::move(opened)), version(version_of(library)) {}

std::optional<Runtime> find_runtime(const LibraryHint& hint, const std::vector<int>& majors) {
  std::error_code ignored;
  const bool by_loader = hint.path.empty();
  if (!by_loader && !fs::is_directory(hint.path, ignored)) return Runtime(DynamicLibrary(hint.path));
  for (const char* stem : kStems) {
    for (const int major : majors) {
      const std::string name = stem + std::to_string(major);
      if (by_loader) {
        // The loader's own search: system packages and LD_LIBRARY_PATH.
        try {
          return Runtime(DynamicLibrary(name));
        } catch (const Error&) {
          continue;
        }
      }
      const fs::path path = fs::path(hint.path) / name;
      if (fs::exists(path, ignored)) return Runtime(DynamicLibrary(path.string()));
    }
  }
  return std::nullopt;
}

std::string runtimes_in(const std::string& folder) {
  std::string found;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    const std::string name = entry.path().filename().string();
    for (const char* stem : kStems) {
      if (name.starts_with(stem)) found += found.empty() ? name : ", " + name;
    }
  }
  return found;
}

}  // namespace datasentinel::tensorrt
