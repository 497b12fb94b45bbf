#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/dynamic_library.h"

namespace datasentinel::onnxruntime {

// The part of ONNX Runtime's C ABI that is used here. The wheels ship the library without its header, and
// the ABI is documented to be append-only: `OrtGetApiBase()->GetApi(version)` returns a table of function
// pointers whose order never changes. `DATASENTINEL_ORT_FUNCTIONS` lists position, name and signature; a
// test compares every line and every enum value with the official onnxruntime_c_api.h.

struct OrtEnv;
struct OrtStatus;
struct OrtMemoryInfo;
struct OrtSession;
struct OrtValue;
struct OrtRunOptions;
struct OrtTypeInfo;
struct OrtTensorTypeAndShapeInfo;
struct OrtSessionOptions;
struct OrtAllocator;
struct OrtIoBinding;
struct OrtSyncStream;
struct OrtCUDAProviderOptionsV2;
struct OrtTensorRTProviderOptionsV2;

/// The table version asked for. Any ONNX Runtime from 1.20 on provides it.
inline constexpr std::uint32_t kApiVersion = 20;
/// The table version with `DATASENTINEL_ORT_COPY_FUNCTIONS`: ONNX Runtime 1.23.
inline constexpr std::uint32_t kCopyApiVersion = 23;

inline constexpr int kErrorCodeNoSuchFile = 3;       // ORT_NO_SUCHFILE
inline constexpr int kErrorCodeInvalidProtobuf = 7;  // ORT_INVALID_PROTOBUF
inline constexpr int kErrorCodeNotImplemented = 9;   // ORT_NOT_IMPLEMENTED
inline constexpr int kErrorCodeInvalidGraph = 10;    // ORT_INVALID_GRAPH
inline constexpr int kLoggingLevelFatal = 4;         // ORT_LOGGING_LEVEL_FATAL
inline constexpr int kElementTypeFloat = 1;          // ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT
inline constexpr int kGraphOptimizationAll = 99;     // ORT_ENABLE_ALL
inline constexpr int kAllocatorDevice = 0;           // OrtDeviceAllocator
inline constexpr int kMemTypeDefault = 0;            // OrtMemTypeDefault
inline constexpr int kMemTypeCpuOutput = -1;         // OrtMemTypeCPUOutput

// clang-format off
#define DATASENTINEL_ORT_FUNCTIONS(X)                                                                         \
  X(1, GetErrorCode, int, const OrtStatus*)                                                                   \
  X(2, GetErrorMessage, const char*, const OrtStatus*)                                                        \
  X(3, CreateEnv, OrtStatus*, int, const char*, OrtEnv**)                                                     \
  X(6, DisableTelemetryEvents, OrtStatus*, const OrtEnv*)                                                     \
  X(8, CreateSessionFromArray, OrtStatus*, const OrtEnv*, const void*, std::size_t, const OrtSessionOptions*, \
    OrtSession**)                                                                                             \
  X(9, Run, OrtStatus*, OrtSession*, const OrtRunOptions*, const char* const*, const OrtValue* const*,        \
    std::size_t, const char* const*, std::size_t, OrtValue**)                                                 \
  X(10, CreateSessionOptions, OrtStatus*, OrtSessionOptions**)                                                \
  X(23, SetSessionGraphOptimizationLevel, OrtStatus*, OrtSessionOptions*, int)                                \
  X(24, SetIntraOpNumThreads, OrtStatus*, OrtSessionOptions*, int)                                            \
  X(25, SetInterOpNumThreads, OrtStatus*, OrtSessionOptions*, int)                                            \
  X(30, SessionGetInputCount, OrtStatus*, const OrtSession*, std::size_t*)                                    \
  X(31, SessionGetOutputCount, OrtStatus*, const OrtSession*, std::size_t*)                                   \
  X(33, SessionGetInputTypeInfo, OrtStatus*, const OrtSession*, std::size_t, OrtTypeInfo**)                   \
  X(34, SessionGetOutputTypeInfo, OrtStatus*, const OrtSession*, std::size_t, OrtTypeInfo**)                  \
  X(36, SessionGetInputName, OrtStatus*, const OrtSession*, std::size_t, OrtAllocator*, char**)               \
  X(37, SessionGetOutputName, OrtStatus*, const OrtSession*, std::size_t, OrtAllocator*, char**)              \
  X(39, CreateRunOptions, OrtStatus*, OrtRunOptions**)                                                        \
  X(49, CreateTensorWithDataAsOrtValue, OrtStatus*, const OrtMemoryInfo*, void*, std::size_t,                 \
    const std::int64_t*, std::size_t, int, OrtValue**)                                                        \
  X(55, CastTypeInfoToTensorInfo, OrtStatus*, const OrtTypeInfo*, const OrtTensorTypeAndShapeInfo**)          \
  X(60, GetTensorElementType, OrtStatus*, const OrtTensorTypeAndShapeInfo*, int*)                             \
  X(61, GetDimensionsCount, OrtStatus*, const OrtTensorTypeAndShapeInfo*, std::size_t*)                       \
  X(62, GetDimensions, OrtStatus*, const OrtTensorTypeAndShapeInfo*, std::int64_t*, std::size_t)              \
  X(68, CreateMemoryInfo, OrtStatus*, const char*, int, int, int, OrtMemoryInfo**)                            \
  X(69, CreateCpuMemoryInfo, OrtStatus*, int, int, OrtMemoryInfo**)                                           \
  X(75, AllocatorAlloc, OrtStatus*, OrtAllocator*, std::size_t, void**)                                       \
  X(76, AllocatorFree, OrtStatus*, OrtAllocator*, void*)                                                      \
  X(78, GetAllocatorWithDefaultOptions, OrtStatus*, OrtAllocator**)                                           \
  X(92, ReleaseEnv, void, OrtEnv*)                                                                            \
  X(93, ReleaseStatus, void, OrtStatus*)                                                                      \
  X(94, ReleaseMemoryInfo, void, OrtMemoryInfo*)                                                              \
  X(95, ReleaseSession, void, OrtSession*)                                                                    \
  X(96, ReleaseValue, void, OrtValue*)                                                                        \
  X(97, ReleaseRunOptions, void, OrtRunOptions*)                                                              \
  X(98, ReleaseTypeInfo, void, OrtTypeInfo*)                                                                  \
  X(100, ReleaseSessionOptions, void, OrtSessionOptions*)                                                     \
  X(125, GetAvailableProviders, OrtStatus*, char***, int*)                                                    \
  X(126, ReleaseAvailableProviders, OrtStatus*, char**, int)                                                  \
  X(130, AddSessionConfigEntry, OrtStatus*, OrtSessionOptions*, const char*, const char*)                     \
  X(131, CreateAllocator, OrtStatus*, const OrtSession*, const OrtMemoryInfo*, OrtAllocator**)                \
  X(132, ReleaseAllocator, void, OrtAllocator*)                                                               \
  X(133, RunWithBinding, OrtStatus*, OrtSession*, const OrtRunOptions*, const OrtIoBinding*)                  \
  X(134, CreateIoBinding, OrtStatus*, OrtSession*, OrtIoBinding**)                                            \
  X(135, ReleaseIoBinding, void, OrtIoBinding*)                                                               \
  X(136, BindInput, OrtStatus*, OrtIoBinding*, const char*, const OrtValue*)                                  \
  X(137, BindOutput, OrtStatus*, OrtIoBinding*, const char*, const OrtValue*)                                 \
  X(165, AddRunConfigEntry, OrtStatus*, OrtRunOptions*, const char*, const char*)                             \
  X(170, SessionOptionsAppendExecutionProvider_TensorRT_V2, OrtStatus*, OrtSessionOptions*,                   \
    const OrtTensorRTProviderOptionsV2*)                                                                      \
  X(171, CreateTensorRTProviderOptions, OrtStatus*, OrtTensorRTProviderOptionsV2**)                           \
  X(174, ReleaseTensorRTProviderOptions, void, OrtTensorRTProviderOptionsV2*)                                 \
  X(204, SessionOptionsAppendExecutionProvider_CUDA_V2, OrtStatus*, OrtSessionOptions*,                       \
    const OrtCUDAProviderOptionsV2*)                                                                          \
  X(205, CreateCUDAProviderOptions, OrtStatus*, OrtCUDAProviderOptionsV2**)                                   \
  X(206, UpdateCUDAProviderOptions, OrtStatus*, OrtCUDAProviderOptionsV2*, const char* const*,                \
    const char* const*, std::size_t)                                                                          \
  X(208, ReleaseCUDAProviderOptions, void, OrtCUDAProviderOptionsV2*)

#define DATASENTINEL_ORT_COPY_FUNCTIONS(X)                                                                    \
  X(301, RegisterExecutionProviderLibrary, OrtStatus*, OrtEnv*, const char*, const char*)                     \
  X(386, CopyTensors, OrtStatus*, const OrtEnv*, const OrtValue* const*, OrtValue* const*, OrtSyncStream*,    \
    std::size_t)
// clang-format on

/// The entry points, typed, out of one opened library. Immutable after construction, so thread-safe.
class Api {
 public:
  /// Throws Error{unavailable}: the library does not load, is too old, or is not ONNX Runtime.
  explicit Api(const std::string& library_path);

  /// Turns a failed status into an Error carrying ONNX Runtime's own words. `what` says what was tried.
  void check(OrtStatus* status, const std::string& what) const;

  /// The execution providers that this library was built with. Whether one loads shows only when it is used.
  [[nodiscard]] std::vector<std::string> providers() const;

  /// Whether the library has `DATASENTINEL_ORT_COPY_FUNCTIONS`; otherwise they are null.
  [[nodiscard]] bool copies_tensors() const noexcept { return CopyTensors != nullptr; }

  [[nodiscard]] const std::string& version() const noexcept { return version_; }
  [[nodiscard]] const std::string& library_path() const noexcept { return library_.path(); }

#define DATASENTINEL_ORT_MEMBER(index, name, result, ...) result (*name)(__VA_ARGS__) = nullptr;
  DATASENTINEL_ORT_FUNCTIONS(DATASENTINEL_ORT_MEMBER)
  DATASENTINEL_ORT_COPY_FUNCTIONS(DATASENTINEL_ORT_MEMBER)
#undef DATASENTINEL_ORT_MEMBER

 private:
  DynamicLibrary library_;
  std::string version_;
};

/// Owns one handle of ONNX Runtime and releases it through the API that made it.
template <typename T, void (*Api::*Release)(T*)>
class Handle {
 public:
  Handle() = default;
  explicit Handle(const Api& api) noexcept : api_(&api) {}
  Handle(Handle&& other) noexcept : api_(other.api_), handle_(std::exchange(other.handle_, nullptr)) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(api_, other.api_);
    std::swap(handle_, other.handle_);
    return *this;
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  ~Handle() { reset(); }

  void reset() noexcept {
    if (handle_ != nullptr) (api_->*Release)(std::exchange(handle_, nullptr));
  }

  /// For the C functions that hand out a handle through a pointer; drops what was held before.
  [[nodiscard]] T** out() noexcept {
    reset();
    return &handle_;
  }
  [[nodiscard]] T* get() const noexcept { return handle_; }

 private:
  const Api* api_ = nullptr;
  T* handle_ = nullptr;
};

using Env = Handle<OrtEnv, &Api::ReleaseEnv>;
using MemoryInfo = Handle<OrtMemoryInfo, &Api::ReleaseMemoryInfo>;
using OrtSessionHandle = Handle<OrtSession, &Api::ReleaseSession>;
using Value = Handle<OrtValue, &Api::ReleaseValue>;
using TypeInfo = Handle<OrtTypeInfo, &Api::ReleaseTypeInfo>;
using Allocator = Handle<OrtAllocator, &Api::ReleaseAllocator>;
using IoBindingHandle = Handle<OrtIoBinding, &Api::ReleaseIoBinding>;
using RunOptions = Handle<OrtRunOptions, &Api::ReleaseRunOptions>;
using CudaOptions = Handle<OrtCUDAProviderOptionsV2, &Api::ReleaseCUDAProviderOptions>;
using TensorRtOptions = Handle<OrtTensorRTProviderOptionsV2, &Api::ReleaseTensorRTProviderOptions>;
using SessionOptionsHandle = Handle<OrtSessionOptions, &Api::ReleaseSessionOptions>;

}  // namespace datasentinel::onnxruntime
