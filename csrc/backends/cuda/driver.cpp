#include "backends/cuda/driver.h"

#include <algorithm>
#include <array>
#include <utility>

#include "core/error.h"

namespace datasentinel::cuda {
namespace {

DynamicLibrary open_driver() {
  try {
    return DynamicLibrary("libcuda.so.1");
  } catch (const Error& error) {
    throw Error(ErrorCode::unavailable, std::string("no NVIDIA driver: ") + error.what());
  }
}

}  // namespace

std::string dotted(int architecture) {
  return std::to_string(architecture / 10) + "." + std::to_string(architecture % 10);
}

Driver::Driver(DynamicLibrary library) : library_(std::move(library)) {
#define DATASENTINEL_CUDA_LOAD(name, ...) name = library_.symbol<int (*)(__VA_ARGS__)>(#name);
  DATASENTINEL_CUDA_FUNCTIONS(DATASENTINEL_CUDA_LOAD)
#undef DATASENTINEL_CUDA_LOAD
  const auto need = [this](int status, const char* what) {
    if (status == 0) return;
    const char* text = nullptr;
    const bool known = cuGetErrorString(status, &text) == 0 && text != nullptr;
    throw Error(ErrorCode::unavailable, std::string("no CUDA device: ") + what +
                                            " says: " + (known ? text : std::to_string(status).c_str()));
  };
  need(cuInit(0), "cuInit");
  int count = 0;
  need(cuDeviceGetCount(&count), "cuDeviceGetCount");
  if (count == 0) throw Error(ErrorCode::unavailable, "no CUDA device: the driver lists none");
  need(cuDeviceGet(&device_, 0), "cuDeviceGet");
  std::array<char, 256> name{};
  need(cuDeviceGetName(name.data(), static_cast<int>(name.size()) - 1, device_), "cuDeviceGetName");
  device_name_ = name.data();
  architecture_ = 10 * attribute(kComputeMajor) + attribute(kComputeMinor);
  need(cuDriverGetVersion(&version_), "cuDriverGetVersion");
  need(cuDevicePrimaryCtxRetain(&context_, device_), "cuDevicePrimaryCtxRetain");
}

Driver::~Driver() {
  if (context_ != nullptr) cuDevicePrimaryCtxRelease_v2(device_);
}

void Driver::check(int status, const char* what) const {
  if (status == 0) return;
  const char* text = nullptr;
  const std::string words =
      cuGetErrorString(status, &text) == 0 && text != nullptr ? text : "error " + std::to_string(status);
  throw Error(status == kOutOfMemory ? ErrorCode::out_of_memory : ErrorCode::backend_failure,
              std::string(what) + ": CUDA says: " + words, words);
}

bool Driver::is_page_locked(const void* memory, std::size_t bytes) const noexcept {
  const auto first = static_cast<DeviceAddress>(reinterpret_cast<std::uintptr_t>(memory));
  // For memory that it does not know, the driver returns "invalid argument".
  const auto get = [this](auto& value, int attribute, DeviceAddress byte) {
    return cuPointerGetAttribute(&value, attribute, byte) == 0;
  };
  unsigned type = 0;
  // What lies between two allocations that are neighbours by chance may be nobody's.
  unsigned long long first_buffer = 0;
  unsigned long long last_buffer = 0;
  return get(type, kPointerMemoryType, first) && type == kMemoryTypeHost &&
         get(first_buffer, kPointerBufferId, first) &&
         get(last_buffer, kPointerBufferId, first + bytes - 1) && first_buffer == last_buffer;
}

DeviceAddress Driver::mapped_address_or_null(const void* memory) const noexcept {
  const auto first = static_cast<DeviceAddress>(reinterpret_cast<std::uintptr_t>(memory));
  DeviceAddress address = 0;
  return cuPointerGetAttribute(&address, kPointerOnDevice, first) == 0 ? address : 0;
}

int Driver::most_clusters(void* function, const LaunchConfig& config) const noexcept {
  // In drivers for CUDA 11.8 and later.
  const auto ask =
      library_.symbol_or_null<int (*)(int*, void*, const LaunchConfig*)>("cuOccupancyMaxActiveClusters");
  int clusters = 0;
  return ask != nullptr && ask(&clusters, function, &config) == 0 ? clusters : 0;
}

int Driver::attribute(int which) const {
  int value = 0;
  check(cuDeviceGetAttribute(&value, which, device_), "asking what the device offers");
  return value;
}

std::shared_ptr<const Driver> DriverOnDemand::get() {
  const std::lock_guard lock(mutex_);
  if (driver_ == nullptr) driver_ = std::make_shared<const Driver>(open_driver());
  return driver_;
}

Stream make_stream(const Driver& driver) {
  Stream stream(driver);
  driver.check(driver.cuStreamCreate(stream.out(), kStreamNonBlocking), "making a stream");
  return stream;
}

DeviceMemory make_device_memory(const Driver& driver, std::size_t bytes) {
  DeviceMemory memory(driver);
  driver.check(driver.cuMemAlloc_v2(memory.out(), std::max<std::size_t>(bytes, 1)),
               "allocating device memory");
  return memory;
}

PinnedMemory make_pinned_memory(const Driver& driver, std::size_t bytes) {
  PinnedMemory memory(driver);
  driver.check(driver.cuMemHostAlloc(memory.out(), std::max<std::size_t>(bytes, 1), 0),
               "allocating page-locked memory");
  return memory;
}

GraphExecutable captured(const Driver& driver, void* stream, const std::function<void()>& work) {
  driver.check(driver.cuStreamBeginCapture_v2(stream, kCaptureThreadLocal), "capturing a CUDA graph");
  bool is_whole = true;
  try {
    work();
  } catch (const Error&) {
    is_whole = false;
  }
  Graph graph(driver);
  GraphExecutable executable(driver);
  is_whole = driver.cuStreamEndCapture(stream, graph.out()) == 0 && is_whole;
  if (is_whole && driver.cuGraphInstantiateWithFlags(executable.out(), graph.get(), 0) == 0) {
    return executable;
  }
  return {};
}

DeviceAddress mapped_address(const Driver& driver, const PinnedMemory& memory) {
  DeviceAddress address = 0;
  driver.check(driver.cuMemHostGetDevicePointer_v2(&address, memory.get(), 0), "mapping memory");
  return address;
}

}  // namespace datasentinel::cuda
