// One major version of TensorRT, against the real libnvinfer of that version: what its module is made of, and
// the module as the backend opens it. DATASENTINEL_TEST_TENSORRT names the folders to look in, separated by
// colons; the lean runtimes of the wheels tensorrt-lean-cu13-libs will do. Most of it needs no GPU. The first
// argument is the folder of the modules.

#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <sstream>
#include <string>

#include "backends/tensorrt/backend.h"
#include "backends/tensorrt/builder.h"
#include "backends/tensorrt/cuda.h"
#include "backends/tensorrt/library.h"
#include "check.h"

namespace datasentinel::tensorrt {
namespace {

constexpr int kSkipped = 77;
constexpr int kMajor = NV_TENSORRT_MAJOR;
constexpr int kOtherMajor = kMajor == 10 ? 11 : 10;

/// The libnvinfer of a major version, full or lean, that the variable names a folder of; empty if it has
/// none.
std::string library_of(int major) {
  const char* folders = std::getenv("DATASENTINEL_TEST_TENSORRT");
  std::istringstream list(folders == nullptr ? "" : folders);
  for (std::string folder; std::getline(list, folder, ':');) {
    const auto runtime = find_runtime({.path = folder, .problem = {}}, {major});
    if (runtime) return runtime->library.path();
  }
  return {};
}

Library open(int major) { return Library(Runtime(DynamicLibrary(library_of(major)))); }

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
  const Library library = open(kMajor);
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

/// The fact behind `object_or_null`. Should a later TensorRT return null, this test still passes.
void without_a_driver_there_is_no_runtime() {
  if (has_device()) return;
  const Library library = open(kMajor);
  CHECK_THROWS_WITH(ErrorCode::backend_failure, "TensorRT makes no runtime", library.make_runtime());
}

void another_major_version_is_refused() {
  if (library_of(kOtherMajor).empty()) return;
  CHECK_THROWS_WITH(ErrorCode::unavailable, "; this build's module for TensorRT " + std::to_string(kMajor),
                    open(kOtherMajor));
}

/// Whether the module for a major version is open in this process.
bool is_open(const std::string& modules, int major) {
  const std::string path = modules + "/_tensorrt" + std::to_string(major) + ".so";
  void* handle = dlopen(path.c_str(), RTLD_LAZY | RTLD_NOLOAD);
  if (handle != nullptr) dlclose(handle);
  return handle != nullptr;
}

void the_module_of_this_version_is_chosen(const std::string& modules) {
  CHECK(!is_open(modules, kMajor));
  const std::string path = library_of(kMajor);
  auto backend = make_tensorrt_backend({.path = path, .problem = {}}, modules);
  const BackendStatus status = backend->status();
  CHECK(is_open(modules, kMajor));
  CHECK(!is_open(modules, kOtherMajor));
  if (has_device()) {
    CHECK(status.availability == Availability::available);
    CHECK(status.version.starts_with(std::to_string(kMajor) + "."));
    CHECK(status.library == path);
    return;
  }
  CHECK(status.availability == Availability::no_device);
  CHECK(status.detail.find("cudaGetDeviceCount says: ") != std::string::npos);
  CHECK(status.detail.find("; '" + path + "' is TensorRT " + std::to_string(kMajor) + ".") !=
        std::string::npos);

  // An error crosses the border as what it is, and outlives the backend that threw it.
  std::exception_ptr thrown;
  try {
    static_cast<void>(backend->load({.name = "m", .onnx = {}}, {}));
  } catch (...) {
    thrown = std::current_exception();
  }
  backend.reset();
  CHECK(is_open(modules, kMajor));
  CHECK_THROWS_WITH(ErrorCode::unavailable, "no CUDA device",
                    thrown ? std::rethrow_exception(thrown) : void());
}

}  // namespace
}  // namespace datasentinel::tensorrt

int main(int count, char** arguments) {
  using namespace datasentinel::tensorrt;
  if (count != 2) return 2;
  low_addresses_are_no_objects();
  another_major_version_is_refused();
  if (library_of(kMajor).empty()) {
    std::printf("skipped: DATASENTINEL_TEST_TENSORRT names no folder of libnvinfer.so.%d\n", kMajor);
    return datasentinel::check::result() != 0 ? 1 : kSkipped;
  }
  a_key_names_what_an_engine_depends_on();
  without_a_driver_there_is_no_runtime();
  the_module_of_this_version_is_chosen(arguments[1]);
  return datasentinel::check::result();
}
