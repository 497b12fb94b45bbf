#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "core/dynamic_library.h"

namespace datasentinel::cuda {

// The part of the CUDA driver's C API that is used here. libcuda comes with the driver and its ABI is stable,
// so no CUDA header is needed to build this; a test compares names and numbers with cuda.h where that is
// installed. Handles are opaque pointers, device addresses 64-bit numbers.

using DeviceAddress = std::uint64_t;

inline constexpr int kOutOfMemory = 2;             // CUDA_ERROR_OUT_OF_MEMORY
inline constexpr int kNotFound = 500;              // CUDA_ERROR_NOT_FOUND
inline constexpr int kMultiprocessorCount = 16;    // CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT
inline constexpr int kComputeMajor = 75;           // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
inline constexpr int kComputeMinor = 76;           // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR
inline constexpr int kSharedBytesPerBlock = 97;    // CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
inline constexpr int kClusterLaunch = 120;         // CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH
inline constexpr int kFunctionSharedBytes = 8;     // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
inline constexpr unsigned kStreamNonBlocking = 1;  // CU_STREAM_NON_BLOCKING
inline constexpr int kCaptureThreadLocal = 1;      // CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
inline constexpr int kPointerMemoryType = 2;       // CU_POINTER_ATTRIBUTE_MEMORY_TYPE
inline constexpr int kPointerOnDevice = 3;         // CU_POINTER_ATTRIBUTE_DEVICE_POINTER
inline constexpr int kPointerBufferId = 7;         // CU_POINTER_ATTRIBUTE_BUFFER_ID
inline constexpr unsigned kMemoryTypeHost = 1;     // CU_MEMORYTYPE_HOST

// clang-format off
#define DATASENTINEL_CUDA_FUNCTIONS(X)                                                                  \
  X(cuInit, unsigned)                                                                                   \
  X(cuDriverGetVersion, int*)                                                                           \
  X(cuGetErrorString, int, const char**)                                                                \
  X(cuDeviceGetCount, int*)                                                                             \
  X(cuDeviceGet, int*, int)                                                                             \
  X(cuDeviceGetName, char*, int, int)                                                                   \
  X(cuDeviceGetAttribute, int*, int, int)                                                               \
  X(cuDevicePrimaryCtxRetain, void**, int)                                                              \
  X(cuDevicePrimaryCtxRelease_v2, int)                                                                  \
  X(cuCtxSetCurrent, void*)                                                                             \
  X(cuCtxSynchronize, void)                                                                             \
  X(cuModuleLoadData, void**, const void*)                                                              \
  X(cuModuleUnload, void*)                                                                              \
  X(cuModuleGetFunction, void**, void*, const char*)                                                    \
  X(cuFuncSetAttribute, void*, int, int)                                                                \
  X(cuOccupancyMaxActiveBlocksPerMultiprocessor, int*, void*, int, std::size_t)                         \
  X(cuMemAlloc_v2, DeviceAddress*, std::size_t)                                                         \
  X(cuMemFree_v2, DeviceAddress)                                                                        \
  X(cuMemHostAlloc, void**, std::size_t, unsigned)                                                      \
  X(cuMemFreeHost, void*)                                                                               \
  X(cuMemHostGetDevicePointer_v2, DeviceAddress*, void*, unsigned)                                      \
  X(cuPointerGetAttribute, void*, int, DeviceAddress)                                                   \
  X(cuMemcpyHtoDAsync_v2, DeviceAddress, const void*, std::size_t, void*)                               \
  X(cuMemcpyDtoHAsync_v2, void*, DeviceAddress, std::size_t, void*)                                     \
  X(cuStreamCreate, void**, unsigned)                                                                   \
  X(cuStreamDestroy_v2, void*)                                                                          \
  X(cuStreamSynchronize, void*)                                                                         \
  X(cuStreamIsCapturing, void*, int*)                                                                   \
  X(cuStreamBeginCapture_v2, void*, int)                                                                \
  X(cuStreamEndCapture, void*, void**)                                                                  \
  X(cuGraphInstantiateWithFlags, void**, void*, unsigned long long)                                     \
  X(cuGraphLaunch, void*, void*)                                                                        \
  X(cuGraphDestroy, void*)                                                                              \
  X(cuGraphExecDestroy, void*)                                                                          \
  X(cuLaunchKernel, void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, \
    void**, void**)
// clang-format on

/// CUlaunchConfig.
struct LaunchConfig {
  unsigned gridDimX = 1, gridDimY = 1, gridDimZ = 1;
  unsigned blockDimX = 1, blockDimY = 1, blockDimZ = 1;
  unsigned sharedMemBytes = 0;
  void* hStream = nullptr;
  void* attrs = nullptr;
  unsigned numAttrs = 0;
};

/// An architecture as a compute capability is written: 90 is "9.0".
[[nodiscard]] std::string dotted(int architecture);

/// The device in use and its primary context, which other CUDA code in the process shares.
class Driver {
 public:
  /// Throws Error{unavailable}: there is no device.
  explicit Driver(DynamicLibrary library);
  Driver(const Driver&) = delete;
  Driver& operator=(const Driver&) = delete;
  ~Driver();

  /// Throws Error{out_of_memory} or Error{backend_failure} with the driver's words.
  void check(int status, const char* what) const;
  /// Makes the context that of the calling thread.
  void enter() const { check(cuCtxSetCurrent(context_), "entering the context"); }
  /// For destructors, which may run in any thread and must not throw.
  void enter_if_possible() const noexcept { static_cast<void>(cuCtxSetCurrent(context_)); }

  /// Whether these bytes lie in one allocation of page-locked host memory, so that the device copies them
  /// itself.
  [[nodiscard]] bool is_page_locked(const void* memory, std::size_t bytes) const noexcept;
  /// Where kernels find memory that is page-locked, its bytes side by side; 0 where they do not.
  [[nodiscard]] DeviceAddress mapped_address_or_null(const void* memory) const noexcept;
  /// How many clusters the device runs at a time, of a kernel that says itself how many blocks those have; 0
  /// where that cannot be known. Less than the whole device may be ours.
  [[nodiscard]] int most_clusters(void* function, const LaunchConfig& config) const noexcept;

  [[nodiscard]] int device() const noexcept { return device_; }
  [[nodiscard]] const std::string& device_name() const noexcept { return device_name_; }
  [[nodiscard]] int architecture() const noexcept { return architecture_; }               ///< e.g. 90
  [[nodiscard]] std::string compute_capability() const { return dotted(architecture_); }  ///< e.g. "9.0"
  [[nodiscard]] int version() const noexcept { return version_; }                         ///< e.g. 13010
  [[nodiscard]] int multiprocessors() const { return attribute(kMultiprocessorCount); }
  /// Whether blocks form clusters, which share memory and wait for each other.
  [[nodiscard]] bool has_clusters() const {
    return architecture_ >= 90 && attribute(kClusterLaunch) != 0;  // Older drivers do not know the attribute.
  }
  [[nodiscard]] std::size_t shared_bytes() const {
    return static_cast<std::size_t>(attribute(kSharedBytesPerBlock));
  }
  [[nodiscard]] const std::string& path() const noexcept { return library_.path(); }

#define DATASENTINEL_CUDA_MEMBER(name, ...) int (*name)(__VA_ARGS__) = nullptr;
  DATASENTINEL_CUDA_FUNCTIONS(DATASENTINEL_CUDA_MEMBER)
#undef DATASENTINEL_CUDA_MEMBER

 private:
  [[nodiscard]] int attribute(int which) const;

  DynamicLibrary library_;
  int device_ = 0;
  void* context_ = nullptr;
  std::string device_name_;
  int architecture_ = 0;
  int version_ = 0;
};

/// A backend's way to the driver, which is opened at first use. Thread-safe.
class DriverOnDemand {
 public:
  /// Throws Error{unavailable}: no driver, or no device.
  [[nodiscard]] std::shared_ptr<const Driver> get();

 private:
  std::mutex mutex_;
  std::shared_ptr<const Driver> driver_;
};

/// Owns what the driver made and gives it back through the function that frees it.
template <typename T, int (*Driver::*Release)(T)>
class Owned {
 public:
  Owned() = default;
  explicit Owned(const Driver& driver) noexcept : driver_(&driver) {}
  Owned(Owned&& other) noexcept : driver_(other.driver_), handle_(std::exchange(other.handle_, T{})) {}
  Owned& operator=(Owned&& other) noexcept {
    std::swap(driver_, other.driver_);
    std::swap(handle_, other.handle_);
    return *this;
  }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  ~Owned() {
    // A failing release is ignored: after a sticky error every call fails.
    if (handle_ != T{}) (driver_->*Release)(handle_);
  }
  [[nodiscard]] T get() const noexcept { return handle_; }
  [[nodiscard]] T* out() noexcept { return &handle_; }

 private:
  const Driver* driver_ = nullptr;
  T handle_{};
};

using Module = Owned<void*, &Driver::cuModuleUnload>;
using Stream = Owned<void*, &Driver::cuStreamDestroy_v2>;
using DeviceMemory = Owned<DeviceAddress, &Driver::cuMemFree_v2>;
using PinnedMemory = Owned<void*, &Driver::cuMemFreeHost>;
using Graph = Owned<void*, &Driver::cuGraphDestroy>;
using GraphExecutable = Owned<void*, &Driver::cuGraphExecDestroy>;

// They throw as Driver::check does. For zero bytes, one is allocated.
[[nodiscard]] Stream make_stream(const Driver& driver);
[[nodiscard]] DeviceMemory make_device_memory(const Driver& driver, std::size_t bytes);
[[nodiscard]] PinnedMemory make_pinned_memory(const Driver& driver, std::size_t bytes);
/// What `work` puts on the stream, as a graph to be launched; none where it cannot be captured.
[[nodiscard]] GraphExecutable captured(const Driver& driver, void* stream, const std::function<void()>& work);
/// Where the device finds page-locked memory.
[[nodiscard]] DeviceAddress mapped_address(const Driver& driver, const PinnedMemory& memory);

}  // namespace datasentinel::cuda
