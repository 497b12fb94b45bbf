// Stands in for a libnvinfer, or a TensorRT for RTX, of a version that the test of the look-up asks for. Its
// factories make nothing, as TensorRT's do without a driver.

#include <cstdint>

#define EXPORTED extern "C" __attribute__((visibility("default")))

EXPORTED std::int32_t getInferLibVersion() noexcept { return DATASENTINEL_STUB_VERSION; }
EXPORTED void* createInferRuntime_INTERNAL(void* /*logger*/, std::int32_t /*version*/) noexcept {
  return reinterpret_cast<void*>(std::uintptr_t{0x228});
}
