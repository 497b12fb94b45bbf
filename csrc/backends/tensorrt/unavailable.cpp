#include "backends/tensorrt/backend.h"
#include "core/error.h"

namespace datasentinel {
namespace {

constexpr const char* kReason =
    "this build of datasentinel has no tensorrt backend: " DATASENTINEL_TENSORRT_PROBLEM
    "; docs/gpu.md says how to build it";

class TensorRtUnavailable final : public Backend {
 public:
  [[nodiscard]] std::string_view name() const noexcept override { return "tensorrt"; }

  [[nodiscard]] BackendStatus status() override {
    return {.availability = Availability::not_built, .detail = kReason, .version = {}, .library = {}};
  }

  [[nodiscard]] std::unique_ptr<Session> load(const Model& /*model*/,
                                              const SessionOptions& /*options*/) override {
    throw Error(ErrorCode::unavailable, kReason);
  }
};

}  // namespace

std::unique_ptr<Backend> make_tensorrt_backend(LibraryHint /*library*/, std::string /*module_folder*/) {
  return std::make_unique<TensorRtUnavailable>();
}

std::string tensorrt_headers() { return "none"; }

}  // namespace datasentinel
