#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "backends/tensorrt/api.h"
#include "core/dynamic_library.h"
#include "core/library_hint.h"

namespace datasentinel::tensorrt {

/// Keeps TensorRT's last errors for our own messages and drops the rest. Thread-safe.
class Logger final : public abi::ILogger {
 public:
  void log(abi::Severity severity, const char* message) noexcept override;

  /// The errors since the last call, and none after it.
  [[nodiscard]] std::string take_errors();

 private:
  std::mutex mutex_;
  std::string errors_;
};

/// TensorRT's products, which share an ABI.
enum class Product {
  enterprise,  ///< libnvinfer: builds for the device at hand, on any card of the data centre.
  rtx,         ///< TensorRT for RTX: builds for given compute capabilities without a device.
  lean,        ///< libnvinfer_lean: runs engines of `enterprise`, and builds none.
};

/// Whether a factory made an object. Without a driver the factories of TensorRT log an error and return a
/// small number instead of null, so nothing in the first 64 KiB of the address space, which no object can
/// occupy, is one.
[[nodiscard]] inline bool is_object(const void* pointer) noexcept {
  constexpr std::uintptr_t kLowestObject = 1 << 16;
  return reinterpret_cast<std::uintptr_t>(pointer) >= kLowestObject;
}

/// TensorRT, opened, and its ONNX parser when that is there. Immutable after construction.
class Library {
 public:
  /// Opens what `hint` names: a file, or in a folder the first of libnvinfer, TensorRT for RTX and the lean
  /// runtime; without a path the first that the loader finds.
  ///
  /// Throws Error{unavailable}: there is none, it does not load, or it is of another version than 11.1 and
  /// later of TensorRT, or 1.7 and later of TensorRT for RTX.
  explicit Library(const LibraryHint& hint);

  // They throw Error{backend_failure} with TensorRT's own words, or Error{unavailable} when no engine can be
  // built here. `enterprise` and `lean` need a device (can_build_without_device).
  [[nodiscard]] abi::Owned<abi::VRuntime> make_runtime() const;
  [[nodiscard]] abi::Owned<abi::VBuilder> make_builder() const;
  [[nodiscard]] std::unique_ptr<abi::IParser> make_parser(
      abi::Object<abi::VNetworkDefinition>& network) const;

  [[nodiscard]] Product product() const noexcept { return product_; }
  [[nodiscard]] bool can_build_without_device() const noexcept {
    return product_ == Product::rtx && builder_problem_.empty();
  }
  [[nodiscard]] std::string name() const;  ///< e.g. "TensorRT 11.4.0", "TensorRT for RTX 1.7.1"
  [[nodiscard]] const std::string& version() const noexcept { return version_; }
  [[nodiscard]] const std::string& path() const noexcept { return library_.path(); }
  [[nodiscard]] Logger& logger() const noexcept { return *logger_; }
  /// Throws Error{backend_failure} that ends with TensorRT's own words.
  [[noreturn]] void fail(const std::string& what) const;

 private:
  using Factory = void* (*)(void* logger, std::int32_t version) noexcept;
  using ParserFactory = void* (*)(void* network, void* logger, int version) noexcept;

  void read_version();
  void open_builder();
  template <typename T>
  [[nodiscard]] T* checked(void* pointer, const char* what) const;

  std::unique_ptr<Logger> logger_ = std::make_unique<Logger>();
  DynamicLibrary library_;
  std::optional<DynamicLibrary> parser_;
  Product product_ = Product::enterprise;
  std::string version_;
  std::int32_t abi_version_ = 0;  ///< What the factories ask for.
  Factory create_runtime_ = nullptr;
  Factory create_builder_ = nullptr;
  ParserFactory create_parser_ = nullptr;
  std::string builder_problem_;  ///< Why no engine can be built here; empty when one can.
};

}  // namespace datasentinel::tensorrt
