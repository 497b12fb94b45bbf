#include "backends/tensorrt/backend.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <mutex>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "backends/tensorrt/module.h"
#include "backends/tensorrt/runtime.h"
#include "core/dynamic_library.h"
#include "core/error.h"

namespace datasentinel {
namespace {

using tensorrt::Runtime;

/// The major versions that the sources of a module are written for, newest first.
struct Major {
  int number;
  std::string_view headers;  ///< The version of the headers that its module was built with; empty: no module.
  [[nodiscard]] constexpr bool is_built() const { return !headers.empty(); }
};
constexpr std::array kMajors = {Major{.number = 11, .headers = DATASENTINEL_TENSORRT_11_HEADERS},
                                Major{.number = 10, .headers = DATASENTINEL_TENSORRT_10_HEADERS}};

std::vector<int> majors(bool built) {
  std::vector<int> numbers;
  for (const Major& major : kMajors) {
    if (major.is_built() == built) numbers.push_back(major.number);
  }
  return numbers;
}

/// What `text_of` says of each major version that is built, joined for a sentence.
template <typename TextOf>
std::string each_built(std::string_view joint, const TextOf& text_of) {
  std::string text;
  for (const Major& major : kMajors) {
    if (!major.is_built()) continue;
    if (!text.empty()) text += joint;
    text += text_of(major);
  }
  return text;
}

std::string needs() {
  return "this build serves TensorRT " +
         each_built(" and ", [](const Major& major) { return std::to_string(major.number); }) +
         " (its headers were " + tensorrt_headers() + ")";
}

Runtime find(const LibraryHint& hint) {
  // One that no module serves is opened for the sake of the message.
  std::optional<Runtime> runtime = tensorrt::find_runtime(hint, majors(true));
  if (!runtime) runtime = tensorrt::find_runtime(hint, majors(false));
  if (runtime) return *std::move(runtime);
  const std::string wanted =
      each_built(" or ", [](const Major& major) { return "libnvinfer.so." + std::to_string(major.number); });
  if (hint.path.empty()) {
    throw Error(ErrorCode::unavailable, hint.problem + "; and the loader finds no " + wanted);
  }
  const std::string others = tensorrt::runtimes_in(hint.path);
  throw Error(ErrorCode::unavailable, "'" + hint.path + "' has no " + wanted +
                                          (others.empty() ? "" : ", only " + others) + "; " + needs());
}

/// Opens the module for `runtime` in `folder`, for good.
tensorrt::ModuleFactory open_module(const std::filesystem::path& folder, const Runtime& runtime) {
  const int major = runtime.version.major;
  const auto is_it = [&](const Major& built) { return built.is_built() && built.number == major; };
  if (std::none_of(kMajors.begin(), kMajors.end(), is_it)) {
    throw Error(ErrorCode::unavailable, "'" + runtime.library.path() + "' is TensorRT " +
                                            runtime.version.text() + ", but " + needs());
  }
  DynamicLibrary module((folder / ("_tensorrt" + std::to_string(major) + ".so")).string());
  const auto factory = module.symbol<tensorrt::ModuleFactory>(tensorrt::kModuleFactoryName);
  module.keep_open();
  return factory;
}

/// Finds out at first use which TensorRT is installed, and leaves the work to the module for it.
class TensorRtBackend final : public Backend {
 public:
  TensorRtBackend(LibraryHint hint, std::filesystem::path module_folder)
      : hint_(std::move(hint)), module_folder_(std::move(module_folder)) {}

  [[nodiscard]] std::string_view name() const noexcept override { return "tensorrt"; }

  [[nodiscard]] BackendStatus status() override {
    BackendStatus status;
    try {
      return open(status.availability).status();
    } catch (const Error& error) {
      status.detail = error.what();
    }
    return status;
  }

  [[nodiscard]] std::unique_ptr<Session> load(const Model& model, const SessionOptions& options) override {
    Availability ignored{};
    return open(ignored).load(model, options);
  }

 private:
  /// When it throws, `obstacle` says what the Error is about.
  Backend& open(Availability& obstacle) {
    const std::lock_guard lock(mutex_);
    if (backend_ != nullptr) return *backend_;
    obstacle = Availability::library_not_found;
    Runtime runtime = find(hint_);
    obstacle = Availability::not_built;
    const tensorrt::ModuleFactory make = open_module(module_folder_, runtime);
    obstacle = Availability::library_not_found;
    backend_.reset(make(std::move(runtime)));
    return *backend_;
  }

  const LibraryHint hint_;
  const std::filesystem::path module_folder_;
  std::mutex mutex_;
  std::unique_ptr<Backend> backend_;
};

}  // namespace

std::unique_ptr<Backend> make_tensorrt_backend(LibraryHint library, std::string module_folder) {
  if (module_folder.empty()) {
    module_folder = folder_of_code(reinterpret_cast<const void*>(&make_tensorrt_backend));
  }
  return std::make_unique<TensorRtBackend>(std::move(library), std::move(module_folder));
}

std::string tensorrt_headers() {
  return each_built(" and ", [](const Major& major) { return std::string(major.headers); });
}

}  // namespace datasentinel
