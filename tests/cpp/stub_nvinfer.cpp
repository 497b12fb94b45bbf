// Stands in for a libnvinfer of a version that the test of the choice between versions asks for.

#include <cstdint>

extern "C" __attribute__((visibility("default"))) std::int32_t getInferLibVersion() noexcept {
  return DATASENTINEL_STUB_VERSION;
}
