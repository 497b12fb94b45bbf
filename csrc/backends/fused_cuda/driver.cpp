#include "backends/fused_cuda/driver.h"

#include <array>

#include "core/error.h"

namespace datasentinel::fused_cuda {

Driver::Driver(const std::string& library_path) : library_(library_path) {
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
  constexpr int kLeastArchitecture = 80;
  if (architecture_ < kLeastArchitecture) {
    throw Error(ErrorCode::unavailable, "'" + device_name_ + "' has compute capability " +
                                            std::to_string(architecture_ / 10) + "." +
                                            std::to_string(architecture_ % 10) + "; 8.0 or later is needed");
  }
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
              std::string("fused-cuda: ") + what + ": CUDA says: " + words, words);
}

int Driver::attribute(int which) const {
  int value = 0;
  check(cuDeviceGetAttribute(&value, which, device_), "asking what the device offers");
  return value;
}

}  // namespace datasentinel::fused_cuda
