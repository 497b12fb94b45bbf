// How the tensorrt backend finds libnvinfer and chooses the module for it, in a build that has the module for
// TensorRT 11 only: no header, library or device of NVIDIA's is needed. The first argument is the folder of
// stubs of libnvinfer, which know their version and nothing else.

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "backends/tensorrt/backend.h"
#include "backends/tensorrt/runtime.h"
#include "check.h"

namespace datasentinel::tensorrt {
namespace {

namespace fs = std::filesystem;

bool starts_with(const std::string& text, const std::string& start) { return text.starts_with(start); }
bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

/// A folder of the test's own, with the libraries of these names copied from `stubs`.
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

 private:
  fs::path path_;
};

BackendStatus status_with(const std::string& path, const std::string& modules) {
  const auto backend = make_tensorrt_backend({.path = path, .problem = "no wheel"}, modules);
  const BackendStatus status = backend->status();
  CHECK(backend->name() == "tensorrt");
  CHECK(status.availability != Availability::available);
  CHECK_THROWS_WITH(ErrorCode::unavailable, status.detail, backend->load({.name = "m", .onnx = {}}, {}));
  return status;
}

void versions_are_read(const fs::path& stubs) {
  const auto version_of = [&](const char* name) {
    return Runtime(DynamicLibrary((stubs / name).string())).version.text();
  };
  CHECK(version_of("stub_8601.so") == "8.6.1");
  CHECK(version_of("stub_101601.so") == "10.16.1");
  CHECK(version_of("stub_110400.so") == "11.4.0");
}

void the_full_library_and_the_first_major_are_preferred(const fs::path& stubs) {
  const Folder folder("order");
  const LibraryHint hint{.path = folder.path(), .problem = {}};
  const auto major_of = [&](const std::vector<int>& majors) {
    const auto runtime = find_runtime(hint, majors);
    return runtime ? runtime->version.major : 0;
  };
  CHECK(major_of({11, 10}) == 0);
  folder.add(stubs / "stub_110400.so", "libnvinfer_lean.so.11");
  CHECK(major_of({11, 10}) == 11);
  CHECK(major_of({10}) == 0);
  folder.add(stubs / "stub_101601.so", "libnvinfer.so.10");
  CHECK(major_of({11, 10}) == 10);
  CHECK(major_of({11}) == 11);
  folder.add(stubs / "stub_110400.so", "libnvinfer.so.11");
  CHECK(major_of({11, 10}) == 11);
  CHECK(major_of({10, 11}) == 10);
  CHECK(contains(runtimes_in(folder.path()), "libnvinfer_lean.so.11"));
}

void a_major_without_its_module_is_named(const fs::path& stubs) {
  const Folder folder("not-built");
  folder.add(stubs / "stub_101601.so", "libnvinfer.so.10");
  const std::string file = folder.path("libnvinfer.so.10");
  for (const std::string& hint : {folder.path(), file}) {
    const BackendStatus status = status_with(hint, folder.path());
    CHECK(status.availability == Availability::not_built);
    CHECK(status.detail == "'" + file +
                               "' is TensorRT 10.16.1, but this build serves TensorRT 11 (its headers were "
                               "11.1)");
  }
}

void a_major_unheard_of_is_named(const fs::path& stubs) {
  const BackendStatus named = status_with((stubs / "stub_8601.so").string(), stubs.string());
  CHECK(named.availability == Availability::not_built);
  CHECK(contains(named.detail, "is TensorRT 8.6.1, but this build serves TensorRT 11 "));
  const Folder folder("unheard-of");
  folder.add(stubs / "stub_8601.so", "libnvinfer.so.8");
  const BackendStatus found = status_with(folder.path(), stubs.string());
  CHECK(found.availability == Availability::library_not_found);
  CHECK(starts_with(found.detail, "'" + folder.path() + "' has no libnvinfer.so.11, only libnvinfer.so.8; "));
}

void a_module_that_is_gone_is_named(const fs::path& stubs) {
  const Folder folder("no-module");
  const BackendStatus status = status_with((stubs / "stub_110400.so").string(), folder.path());
  CHECK(status.availability == Availability::not_built);
  CHECK(starts_with(status.detail, "cannot open '" + folder.path("_tensorrt11.so") + "': "));
}

void what_is_no_module_is_refused(const fs::path& stubs) {
  const Folder folder("other-module");
  folder.add(stubs / "stub_110400.so", "_tensorrt11.so");
  const BackendStatus status = status_with((stubs / "stub_110400.so").string(), folder.path());
  CHECK(contains(status.detail, "has no symbol 'datasentinel_tensorrt_backend'"));
}

void names_what_is_missing() {
  const Folder folder("missing");
  const BackendStatus nowhere = status_with(folder.path("nowhere"), folder.path());
  CHECK(nowhere.availability == Availability::library_not_found);
  CHECK(starts_with(nowhere.detail, "cannot open '" + folder.path("nowhere") + "': "));
  const BackendStatus empty = status_with(folder.path(), folder.path());
  CHECK(empty.availability == Availability::library_not_found);
  CHECK(empty.detail ==
        "'" + folder.path() +
            "' has no libnvinfer.so.11; this build serves TensorRT 11 (its headers were 11.1)");
  std::ofstream(folder.path("libnvinfer.so.11")) << "not a library";
  const BackendStatus broken = status_with(folder.path(), folder.path());
  CHECK(broken.availability == Availability::library_not_found);
  CHECK(starts_with(broken.detail, "cannot open '" + folder.path("libnvinfer.so.11") + "': "));
  const BackendStatus unfound = status_with({}, folder.path());
  if (unfound.availability == Availability::library_not_found) {
    CHECK(starts_with(unfound.detail, "no wheel; and the loader finds no libnvinfer.so.11"));
  }
}

void modules_lie_beside_the_code(const fs::path& stubs) {
  const fs::path folder = folder_of_code(reinterpret_cast<const void*>(&modules_lie_beside_the_code));
  CHECK(fs::exists(folder / "test_tensorrt"));
  const BackendStatus status = status_with((stubs / "stub_110400.so").string(), {});
  CHECK(starts_with(status.detail, "cannot open '" + (folder / "_tensorrt11.so").string() + "': "));
}

}  // namespace
}  // namespace datasentinel::tensorrt

int main(int count, char** arguments) {
  using namespace datasentinel;
  if (count != 2) return 2;
  const std::filesystem::path stubs = arguments[1];
  CHECK(tensorrt_headers() == "11.1");
  tensorrt::versions_are_read(stubs);
  tensorrt::the_full_library_and_the_first_major_are_preferred(stubs);
  tensorrt::a_major_without_its_module_is_named(stubs);
  tensorrt::a_major_unheard_of_is_named(stubs);
  tensorrt::a_module_that_is_gone_is_named(stubs);
  tensorrt::what_is_no_module_is_refused(stubs);
  tensorrt::names_what_is_missing();
  tensorrt::modules_lie_beside_the_code(stubs);
  return check::result();
}
