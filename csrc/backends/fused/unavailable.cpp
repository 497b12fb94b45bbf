#include "backends/fused/backend.h"
#include "core/error.h"

namespace datasentinel {
namespace {

constexpr const char* kReason = "the fused backend is not built in this version of datasentinel";

class FusedUnavailable final : public Backend {
 public:
  [[nodiscard]] std::string_view name() const noexcept override { return "fused"; }

  [[nodiscard]] BackendStatus status() override {
    return {.availability = Availability::not_built, .detail = kReason, .version = {}, .library = {}};
  }

  [[nodiscard]] std::unique_ptr<Session> load(const Model& /*model*/,
                                              const SessionOptions& /*options*/) override {
    throw Error(ErrorCode::unavailable, kReason);
  }
};

}  // namespace

std::unique_ptr<Backend> make_fused_backend() { return std::make_unique<FusedUnavailable>(); }

}  // namespace datasentinel
