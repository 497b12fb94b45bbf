#pragma once

#include <string>
#include <utility>

namespace datasentinel {

/// A shared library opened at run time. Movable, closed by the destructor.
class DynamicLibrary {
 public:
  /// Throws Error{unavailable} with the loader's own message.
  explicit DynamicLibrary(std::string path);
  DynamicLibrary(DynamicLibrary&& other) noexcept
      : path_(std::move(other.path_)), handle_(std::exchange(other.handle_, nullptr)) {}
  DynamicLibrary& operator=(DynamicLibrary&& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(handle_, other.handle_);
    return *this;
  }
  DynamicLibrary(const DynamicLibrary&) = delete;
  DynamicLibrary& operator=(const DynamicLibrary&) = delete;
  ~DynamicLibrary();

  [[nodiscard]] const std::string& path() const noexcept { return path_; }

  /// Throws Error{unavailable} when the library does not export `name`.
  template <typename Function>
  [[nodiscard]] Function symbol(const char* name) const {
    return reinterpret_cast<Function>(find(name));
  }

  /// The same for what not every version of the library exports; null where it does not.
  template <typename Function>
  [[nodiscard]] Function symbol_or_null(const char* name) const noexcept {
    return reinterpret_cast<Function>(find_or_null(name));
  }

 private:
  [[nodiscard]] void* find(const char* name) const;
  [[nodiscard]] void* find_or_null(const char* name) const noexcept;

  std::string path_;
  void* handle_ = nullptr;
};

}  // namespace datasentinel
