#include "backends/onnxruntime/backend.h"

#include <mutex>
#include <utility>

#include "backends/onnxruntime/session.h"
#include "core/error.h"

namespace datasentinel {
namespace {

class OnnxRuntimeBackend final : public Backend {
 public:
  explicit OnnxRuntimeBackend(LibraryHint hint) : hint_(std::move(hint)) {}

  [[nodiscard]] std::string_view name() const noexcept override { return "onnxruntime"; }

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
    return std::make_unique<onnxruntime::OnnxRuntimeSession>(open(), model, options);
  }

 private:
  std::shared_ptr<onnxruntime::Runtime> open() {
    const std::lock_guard lock(mutex_);
    if (runtime_ == nullptr) {
      if (hint_.path.empty()) throw Error(ErrorCode::unavailable, hint_.problem);
      runtime_ = std::make_shared<onnxruntime::Runtime>(hint_.path);
    }
    return runtime_;
  }

  const LibraryHint hint_;
  std::mutex mutex_;
  std::shared_ptr<onnxruntime::Runtime> runtime_;
};

}  // namespace

std::unique_ptr<Backend> make_onnxruntime_backend(LibraryHint library) {
  return std::make_unique<OnnxRuntimeBackend>(std::move(library));
}

}  // namespace datasentinel
