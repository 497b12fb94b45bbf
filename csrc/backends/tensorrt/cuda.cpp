#include "backends/tensorrt/cuda.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"

namespace datasentinel::tensorrt {

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  const std::string text = cudaGetErrorString(status);
  const ErrorCode code =
      status == cudaErrorMemoryAllocation ? ErrorCode::out_of_memory : ErrorCode::backend_failure;
  throw Error(code, std::string("tensorrt: ") + what + ": CUDA says: " + text, text);
}

Device current_device() {
  int count = 0;  // cudaGetDeviceCount does not write it when it fails.
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess || count == 0) {
    const std::string text = status == cudaSuccess ? "no device" : cudaGetErrorString(status);
    int driver = 0;
    const bool has_driver = cudaDriverGetVersion(&driver) == cudaSuccess && driver != 0;
    throw Error(ErrorCode::unavailable,
                "no CUDA device: cudaGetDeviceCount says: " + text +
                    (has_driver ? "" : " (no NVIDIA driver is installed on this machine)"),
                text);
  }
  Device device;
  check(cudaGetDevice(&device.index), "asking for the current device");
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, device.index), "asking for the device's properties");
  device.name = properties.name;
  device.compute_major = properties.major;
  device.compute_minor = properties.minor;
  check(cudaDriverGetVersion(&device.driver), "asking for the driver's version");
  return device;
}

Stream make_stream() {
  Stream stream;
  check(cudaStreamCreateWithFlags(stream.out(), cudaStreamNonBlocking), "making a stream");
  return stream;
}

DeviceMemory make_device_memory(std::size_t bytes) {
  DeviceMemory memory;
  check(cudaMalloc(memory.out(), std::max<std::size_t>(bytes, 1)), "allocating device memory");
  return memory;
}

PinnedMemory make_pinned_memory(std::size_t bytes) {
  PinnedMemory memory;
  const std::size_t size = std::max<std::size_t>(bytes, 1);
  check(cudaHostAlloc(memory.out(), size, cudaHostAllocDefault), "allocating page-locked memory");
  std::memset(memory.get(), 0, size);
  return memory;
}

}  // namespace datasentinel::tensorrt
