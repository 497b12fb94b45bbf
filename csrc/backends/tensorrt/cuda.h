#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <string>
#include <utility>

namespace datasentinel::tensorrt {

/// Throws Error{out_of_memory} or Error{backend_failure} with CUDA's own words.
void check(cudaError_t status, const char* what);

/// The device that this process uses, and what an engine's fitness depends on.
struct Device {
  int index = 0;
  std::string name;
  int compute_major = 0;
  int compute_minor = 0;
  int driver = 0;  ///< As cudaDriverGetVersion gives it, e.g. 13010.
};

/// Throws Error{unavailable} where there is no usable device. Nothing of TensorRT may be called before this
/// has succeeded once: without a driver, its factories return pointers that are not null and not objects.
[[nodiscard]] Device current_device();

/// Owns what a pair of CUDA functions makes and frees. A failing release is ignored: after a sticky error
/// every call fails, and the process's end frees everything.
template <typename T, cudaError_t (*Release)(T)>
class CudaHandle {
 public:
  CudaHandle() = default;
  CudaHandle(CudaHandle&& other) noexcept : handle_(std::exchange(other.handle_, T{})) {}
  CudaHandle& operator=(CudaHandle&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  CudaHandle(const CudaHandle&) = delete;
  CudaHandle& operator=(const CudaHandle&) = delete;
  ~CudaHandle() { reset(); }

  void reset() noexcept {
    if (handle_ != T{}) Release(std::exchange(handle_, T{}));
  }
  [[nodiscard]] T get() const noexcept { return handle_; }
  [[nodiscard]] T* out() noexcept {
    reset();
    return &handle_;
  }

 private:
  T handle_{};
};

using Stream = CudaHandle<cudaStream_t, &cudaStreamDestroy>;
using Graph = CudaHandle<cudaGraph_t, &cudaGraphDestroy>;
using GraphExecutable = CudaHandle<cudaGraphExec_t, &cudaGraphExecDestroy>;

/// float32 memory on the device, and page-locked memory on the host.
using DeviceMemory = CudaHandle<void*, &cudaFree>;
using PinnedMemory = CudaHandle<void*, &cudaFreeHost>;

[[nodiscard]] Stream make_stream();
[[nodiscard]] DeviceMemory make_device_memory(std::size_t bytes);
[[nodiscard]] PinnedMemory make_pinned_memory(std::size_t bytes);  ///< Zeros.

}  // namespace datasentinel::tensorrt
