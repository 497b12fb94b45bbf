// How TensorRT is found and told apart, and what an engine's key depends on: no header, library or device of
// NVIDIA's is needed. The first argument is the folder of stubs, which know their version and nothing else.

#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>

#include "backends/tensorrt/backend.h"
#include "backends/tensorrt/builder.h"
#include "backends/tensorrt/library.h"
#include "check.h"

namespace datasentinel::tensorrt {
namespace {

namespace fs = std::filesystem;

/// A folder of the test's own.
class Folder {
 public:
  explicit Folder(const std::string& name)
      : path_(fs::temp_directory_path() /
              ("datasentinel-test-tensorrt-" + name + "-" + std::to_string(getpid()))) {
    fs::remove_all(path_);
    fs::create_directory(path_);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() { fs::remove_all(path_); }

  void add(const fs::path& file, const std::string& name) const { fs::copy_file(file, path_ / name); }
  [[nodiscard]] std::string path(const std::string& name = {}) const {
    return name.empty() ? path_.string() : (path_ / name).string();
  }
  [[nodiscard]] Library open(const std::string& name = {}) const {
    return Library({.path = path(name), .problem = {}});
  }

 private:
  fs::path path_;
};

void low_addresses_are_no_objects() {
  CHECK(!is_object(nullptr));
  CHECK(!is_object(reinterpret_cast<void*>(std::uintptr_t{0xFFFF})));
  const int object = 0;
  CHECK(is_object(&object));
}

void products_are_told_apart_and_the_better_one_is_taken(const fs::path& stubs) {
  const Folder folder("order");
  folder.add(stubs / "stub_110400.so", "libnvinfer_lean.so.11");
  CHECK(folder.open().product() == Product::lean);
  CHECK_THROWS_WITH(ErrorCode::unavailable, "is the lean runtime, which runs engines but builds none",
                    folder.open().make_builder());
  folder.add(stubs / "stub_10701.so", "libtensorrt_rtx.so.1");
  CHECK(folder.open().name() == "TensorRT for RTX 1.7.1");
  folder.add(stubs / "stub_110400.so", "libnvinfer.so.11");
  CHECK(folder.open().name() == "TensorRT 11.4.0");
  CHECK(folder.open("libtensorrt_rtx.so.1").product() == Product::rtx);
}

void other_versions_are_refused_by_name(const fs::path& stubs) {
  const Folder folder("versions");
  folder.add(stubs / "stub_101601.so", "libnvinfer.so.11");
  CHECK_THROWS_WITH(ErrorCode::unavailable,
                    "is TensorRT 10.16.1; served are TensorRT 11.1 and later of that major version",
                    folder.open());
  folder.add(stubs / "stub_8601.so", "libnvinfer.so");
  CHECK_THROWS_WITH(ErrorCode::unavailable, "is TensorRT 8.6.1; ", folder.open("libnvinfer.so"));
  folder.add(stubs / "stub_10500.so", "libtensorrt_rtx.so.1");
  CHECK_THROWS_WITH(ErrorCode::unavailable,
                    "is TensorRT for RTX 1.5.0; served are TensorRT for RTX 1.7 and later",
                    folder.open("libtensorrt_rtx.so.1"));
}

void what_is_missing_is_named() {
  const Folder folder("missing");
  CHECK_THROWS_WITH(ErrorCode::unavailable,
                    "cannot open '" + folder.path("nowhere") + "': ", folder.open("nowhere"));
  const std::string none = "' has none of libnvinfer.so.11, libtensorrt_rtx.so.1, libnvinfer_lean.so.11";
  CHECK_THROWS_WITH(ErrorCode::unavailable, none, folder.open());
  std::ofstream(folder.path("libnvinfer.so.10")) << "of another version";
  CHECK_THROWS_WITH(ErrorCode::unavailable, none + ", only libnvinfer.so.10", folder.open());
  std::ofstream(folder.path("libnvinfer.so.11")) << "not a library";
  CHECK_THROWS_WITH(ErrorCode::unavailable,
                    "cannot open '" + folder.path("libnvinfer.so.11") + "': ", folder.open());
}

void a_factory_that_makes_nothing_is_an_error(const fs::path& stubs) {
  const Folder folder("factory");
  folder.add(stubs / "stub_110400.so", "libnvinfer.so.11");
  const Library library = folder.open();
  CHECK_THROWS_WITH(ErrorCode::backend_failure,
                    "making a runtime: TensorRT 11.4.0 says: ", library.make_runtime());
  CHECK_THROWS_WITH(ErrorCode::unavailable, "no engine can be built: ", library.make_builder());
  CHECK(!library.can_build_without_device());
}

void the_backend_says_why_it_cannot_run(const fs::path& stubs) {
  const Folder folder("backend");
  const auto status_of = [&] {
    const auto backend = make_tensorrt_backend({.path = folder.path(), .problem = {}});
    const BackendStatus status = backend->status();
    if (status.availability != Availability::available) {
      CHECK_THROWS_WITH(ErrorCode::unavailable, status.detail, backend->load({.name = "m", .onnx = {}}, {}));
    }
    return status;
  };
  CHECK(status_of().availability == Availability::library_not_found);
  folder.add(stubs / "stub_110400.so", "libnvinfer.so.11");
  if (fs::exists("/dev/nvidiactl")) return;
  const BackendStatus status = status_of();
  CHECK(status.availability == Availability::no_device);
  CHECK(status.detail.ends_with("; '" + folder.path("libnvinfer.so.11") + "' is TensorRT 11.4.0"));
}

void a_key_names_what_an_engine_depends_on(const fs::path& stubs) {
  const Folder folder("key");
  folder.add(stubs / "stub_110400.so", "libnvinfer.so.11");
  folder.add(stubs / "stub_10701.so", "libtensorrt_rtx.so.1");
  const Library enterprise = folder.open("libnvinfer.so.11");
  const Library rtx = folder.open("libtensorrt_rtx.so.1");
  const Target h200{.architecture = 90, .device_name = "NVIDIA H200", .driver = 13010};
  const Target newer_driver{.architecture = 90, .device_name = "NVIDIA H200", .driver = 13020};
  const Target a100{.architecture = 80, .device_name = "NVIDIA A100", .driver = 13010};
  const Model model{.name = "m", .onnx = {}, .sha256 = "abc"};
  const Model other{.name = "m", .onnx = {}, .sha256 = "def"};
  const SessionOptions options;
  const std::string text = key_of(model, options, enterprise, h200).text();
  CHECK(text == key_of(model, options, enterprise, h200).text());
  CHECK(text != key_of(model, options, rtx, h200).text());
  CHECK(text != key_of(other, options, enterprise, h200).text());
  CHECK(text != key_of(model, options, enterprise, a100).text());
  CHECK(text != key_of(model, options, enterprise, newer_driver).text());
  CHECK(text.find("TensorRT 11.4.0") != std::string::npos);
  const auto changed = [&](auto change) {
    SessionOptions others;
    change(others);
    return key_of(model, others, enterprise, h200).text();
  };
  CHECK(text != changed([](SessionOptions& o) { o.precision = "tf32"; }));
  CHECK(text != changed([](SessionOptions& o) { o.engine.max_rows = 100; }));
  CHECK(text != changed([](SessionOptions& o) { o.engine.optimization_level = 5; }));
  SessionOptions compatible;
  compatible.engine.hardware_compatible = true;
  CHECK(key_of(model, compatible, enterprise, h200).text() ==
        key_of(model, compatible, enterprise, a100).text());

  // What was built ahead of time for a compute capability is what its devices ask for, and no others.
  const Target ahead{.architecture = 90};
  CHECK(key_of(model, options, rtx, ahead).text() == key_of(model, options, rtx, newer_driver).text());
  CHECK(key_of(model, options, rtx, ahead).text() != key_of(model, options, rtx, a100).text());
}

}  // namespace
}  // namespace datasentinel::tensorrt

int main(int count, char** arguments) {
  using namespace datasentinel;
  if (count != 2) return 2;
  const std::filesystem::path stubs = arguments[1];
  tensorrt::low_addresses_are_no_objects();
  tensorrt::products_are_told_apart_and_the_better_one_is_taken(stubs);
  tensorrt::other_versions_are_refused_by_name(stubs);
  tensorrt::what_is_missing_is_named();
  tensorrt::a_factory_that_makes_nothing_is_an_error(stubs);
  tensorrt::the_backend_says_why_it_cannot_run(stubs);
  tensorrt::a_key_names_what_an_engine_depends_on(stubs);
  return check::result();
}
