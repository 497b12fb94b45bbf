// The tensorrt backend against a real libnvinfer (DATASENTINEL_TENSORRT_LIBRARY names it or its folder; the
// lean runtime of the wheel tensorrt-lean-cu13-libs will do). Most of it needs no GPU.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "backends/tensorrt/backend.h"
#include "backends/tensorrt/builder.h"
#include "backends/tensorrt/cuda.h"
#include "backends/tensorrt/library.h"
#include "check.h"

namespace datasentinel::tensorrt {
namespace {

constexpr int kSkipped = 77;

/// Whether this machine has a device, as CUDA says and not as our code does.
bool has_device() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
}

void low_addresses_are_no_objects() {
  CHECK(object_or_null<int>(nullptr) == nullptr);
  CHECK(object_or_null<int>(reinterpret_cast<void*>(std::uintptr_t{0x228})) == nullptr);
  CHECK(object_or_null<int>(reinterpret_cast<void*>(std::uintptr_t{0xFFFF})) == nullptr);
  int object = 0;
  CHECK(object_or_null<int>(&object) == &object);
}

void a_key_names_what_an_engine_depends_on() {
  const LibraryHint hint{.path = std::getenv("DATASENTINEL_TENSORRT_LIBRARY"), .problem = {}};
  const Library library(hint);
  const Device h200{
      .index = 0, .name = "NVIDIA H200", .compute_major = 9, .compute_minor = 0, .driver = 13010};
  Device newer_driver = h200;
  newer_driver.driver = 13020;
  Device a100{.index = 0, .name = "NVIDIA A100", .compute_major = 8, .compute_minor = 0, .driver = 13010};
  const Model model{.name = "m", .onnx = {}, .sha256 = "abc"};
  const Model other{.name = "m", .onnx = {}, .sha256 = "def"};
  SessionOptions options;
  const std::string text = key_of(model, options, library, h200).text();
  CHECK(text == key_of(model, options, library, h200).text());
  CHECK(text != key_of(other, options, library, h200).text());
  CHECK(text != key_of(model, options, library, a100).text());
  CHECK(text != key_of(model, options, library, newer_driver).text());
  CHECK(text.find(library.version()) != std::string::npos);
  SessionOptions changed = options;
  changed.precision = "tf32";
  CHECK(text != key_of(model, changed, library, h200).text());
  changed = options;
  changed.engine.max_rows = 100;
  CHECK(text != key_of(model, changed, library, h200).text());
  changed = options;
  changed.engine.optimization_level = 5;
  CHECK(text != key_of(model, changed, library, h200).text());
  changed = options;
  changed.engine.hardware_compatible = true;
  CHECK(key_of(model, changed, library, h200).text() == key_of(model, changed, library, a100).text());
}

void says_why_it_cannot_run() {
  const std::string path = std::getenv("DATASENTINEL_TENSORRT_LIBRARY");
  const auto backend = make_tensorrt_backend({.path = path, .problem = {}});
  const BackendStatus status = backend->status();
  if (has_device()) {
    CHECK(status.availability == Availability::available);
    return;
  }
  CHECK(status.availability == Availability::no_device);
  CHECK(status.detail.find("cudaGetDeviceCount says: ") != std::string::npos);
  CHECK_THROWS_WITH(ErrorCode::unavailable, "no CUDA device", backend->load({.name = "m", .onnx = {}}, {}));
}

/// The fact behind `object_or_null`. Should a later TensorRT return null, this test still passes.
void without_a_driver_there_is_no_runtime() {
  if (has_device()) return;
  const Library library({.path = std::getenv("DATASENTINEL_TENSORRT_LIBRARY"), .problem = {}});
  CHECK_THROWS_WITH(ErrorCode::backend_failure, "TensorRT makes no runtime", library.make_runtime());
}

void names_what_is_missing() {
  const auto detail_of = [](const std::string& path) {
    const BackendStatus status = make_tensorrt_backend({.path = path, .problem = {}})->status();
    CHECK(status.availability == Availability::library_not_found);
    return status.detail;
  };
  const std::string empty = std::filesystem::temp_directory_path() / "datasentinel-no-such-folder";
  CHECK(detail_of(empty).find("cannot open") != std::string::npos);
  CHECK(detail_of(std::filesystem::current_path()).find("has no libnvinfer.so.") != std::string::npos);
  const BackendStatus unfound = make_tensorrt_backend({.path = {}, .problem = "no wheel"})->status();
  if (unfound.availability == Availability::library_not_found) {
    CHECK(unfound.detail.find("no wheel; and the loader finds no libnvinfer.so.") == 0);
  }
}

/// DATASENTINEL_TENSORRT_OTHER_LIBRARY: one of another major version.
void another_major_version_is_refused() {
  const char* other = std::getenv("DATASENTINEL_TENSORRT_OTHER_LIBRARY");
  if (other == nullptr) return;
  CHECK_THROWS_WITH(ErrorCode::unavailable, "this build serves TensorRT",
                    Library({.path = other, .problem = {}}));
}

}  // namespace
}  // namespace datasentinel::tensorrt

int main() {
  using namespace datasentinel::tensorrt;
  low_addresses_are_no_objects();
  names_what_is_missing();
  another_major_version_is_refused();
  if (std::getenv("DATASENTINEL_TENSORRT_LIBRARY") == nullptr) {
    std::puts("skipped: DATASENTINEL_TENSORRT_LIBRARY names no libnvinfer");
    return datasentinel::check::result() != 0 ? 1 : kSkipped;
  }
  a_key_names_what_an_engine_depends_on();
  says_why_it_cannot_run();
  without_a_driver_there_is_no_runtime();
  return datasentinel::check::result();
}
