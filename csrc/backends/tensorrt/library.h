#pragma once

#include <NvInfer.h>
#include <NvOnnxParser.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "backends/tensorrt/runtime.h"
#include "core/dynamic_library.h"

namespace datasentinel::tensorrt {

/// A factory's result. Without a driver TensorRT's factories log an error and return a small number instead
/// of null, so nothing in the first 64 KiB of the address space, which no object can occupy, counts as one.
template <typename T>
[[nodiscard]] T* object_or_null(void* pointer) noexcept {
  constexpr std::uintptr_t kLowestObject = 64 * 1024;
  return reinterpret_cast<std::uintptr_t>(pointer) < kLowestObject ? nullptr : static_cast<T*>(pointer);
}

/// Keeps TensorRT's last errors for our own messages and drops the rest. Thread-safe.
class Logger final : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const nvinfer1::AsciiChar* message) noexcept override;

  /// The errors since the last call, and none after it.
  [[nodiscard]] std::string take_errors();

 private:
  std::mutex mutex_;
  std::string errors_;
};

/// libnvinfer and, when it is there, the ONNX parser. Immutable after construction.
class Library {
 public:
  /// Throws Error{unavailable}: it is of another major version than the headers of this module, or older than
  /// they are.
  explicit Library(Runtime&& runtime);

  /// Null, as a `unique_ptr`, is never returned: they throw Error{backend_failure} with TensorRT's own words.
  /// There must be a device (see current_device).
  [[nodiscard]] std::unique_ptr<nvinfer1::IRuntime> make_runtime() const;
  [[nodiscard]] std::unique_ptr<nvinfer1::IBuilder> make_builder() const;
  [[nodiscard]] std::unique_ptr<nvonnxparser::IParser> make_parser(
      nvinfer1::INetworkDefinition& network) const;

  [[nodiscard]] std::string version() const { return runtime_.version.text(); }
  [[nodiscard]] const std::string& path() const noexcept { return runtime_.library.path(); }
  /// Why no engine can be built here; empty when one can. The lean runtime runs engines only.
  [[nodiscard]] const std::string& builder_problem() const noexcept { return builder_problem_; }
  [[nodiscard]] Logger& logger() const noexcept { return *logger_; }

 private:
  using Factory = void* (*)(void* logger, std::int32_t version) noexcept;
  using ParserFactory = void* (*)(void* network, void* logger, int version) noexcept;

  void open_builder(const std::string& folder);

  std::unique_ptr<Logger> logger_ = std::make_unique<Logger>();
  Runtime runtime_;
  std::optional<DynamicLibrary> parser_;
  Factory create_runtime_ = nullptr;
  Factory create_builder_ = nullptr;
  ParserFactory create_parser_ = nullptr;
  std::string builder_problem_;
};

/// The version of the headers, e.g. "11.1".
[[nodiscard]] const char* header_version() noexcept;

}  // namespace datasentinel::tensorrt
