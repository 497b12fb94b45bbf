#include "backends/onnxruntime/backend.h"

#include <algorithm>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "backends/onnxruntime/session.h"
#include "core/error.h"

namespace datasentinel {
namespace {

using onnxruntime::backend_of;
using onnxruntime::Provider;
using onnxruntime::to_string;

class OnnxRuntimeBackend final : public Backend {
 public:
  OnnxRuntimeBackend(LibraryHint hint, Provider provider) : hint_(std::move(hint)), provider_(provider) {}

  [[nodiscard]] std::string_view name() const noexcept override { return backend_of(provider_); }

  /// TensorRT builds its engine at every load, and may compute float32 layers in TF32: only on request.
  [[nodiscard]] bool only_by_name() const noexcept override { return provider_ == Provider::tensorrt; }

  [[nodiscard]] BackendStatus status() override {
    try {
      const auto runtime = open();
      return {.availability = Availability::available,
              .detail = {},
              .version = runtime->api.version(),
              .library = runtime->api.library_path()};
    } catch (const Error& error) {
      return {.availability = Availability::library_not_found,
              .detail = error.what(),
              .version = {},
              .library = {}};
    }
  }

  [[nodiscard]] std::unique_ptr<Session> load(const Model& model, const SessionOptions& options) override {
    return std::make_unique<onnxruntime::OnnxRuntimeSession>(open(), model, options, provider_);
  }

 private:
  std::shared_ptr<onnxruntime::Runtime> open() {
    const std::lock_guard lock(mutex_);
    if (runtime_ == nullptr) {
      if (hint_.path.empty()) throw Error(ErrorCode::unavailable, hint_.problem);
      const auto runtime = std::make_shared<onnxruntime::Runtime>(hint_.path);
      if (provider_ != Provider::cpu) check_provider(*runtime);
      runtime_ = runtime;
    }
    return runtime_;
  }

  /// onnxruntime-gpu lists its providers also where they cannot be loaded, so the one in use is loaded here.
  void check_provider(const onnxruntime::Runtime& runtime) const {
    const std::vector<std::string> providers = runtime.api.providers();
    if (std::find(providers.begin(), providers.end(), to_string(provider_)) == providers.end()) {
      throw Error(ErrorCode::unavailable, "'" + runtime.api.library_path() + "' was built without " +
                                              (provider_ == Provider::cuda ? "CUDA" : "TensorRT") +
                                              "; install onnxruntime-gpu in place of onnxruntime");
    }
    onnxruntime::SessionOptionsHandle options(runtime.api);
    runtime.api.check(runtime.api.CreateSessionOptions(options.out()), "making options");
    runtime.add(provider_, options.get(), false);
  }

  const LibraryHint hint_;
  const Provider provider_;
  std::mutex mutex_;
  std::shared_ptr<onnxruntime::Runtime> runtime_;
};

}  // namespace

std::unique_ptr<Backend> make_onnxruntime_backend(LibraryHint library) {
  return std::make_unique<OnnxRuntimeBackend>(std::move(library), Provider::cpu);
}

std::unique_ptr<Backend> make_onnxruntime_cuda_backend(LibraryHint library) {
  return std::make_unique<OnnxRuntimeBackend>(std::move(library), Provider::cuda);
}

std::unique_ptr<Backend> make_onnxruntime_tensorrt_backend(LibraryHint library) {
  return std::make_unique<OnnxRuntimeBackend>(std::move(library), Provider::tensorrt);
}

}  // namespace datasentinel
