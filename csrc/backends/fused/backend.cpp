#include "backends/fused/backend.h"

#include "backends/fused/isa.h"
#include "backends/fused/lowering.h"
#include "backends/fused/session.h"
#include "core/error.h"
#include "onnx/graph.h"

namespace datasentinel {
namespace {

class FusedBackend final : public Backend {
 public:
  [[nodiscard]] std::string_view name() const noexcept override { return "fused"; }

  [[nodiscard]] BackendStatus status() override {
    try {
      return {.availability = Availability::available,
              .detail = {},
              .version = fused::choose_kernels().isa,
              .library = {}};
    } catch (const Error& error) {
      return {.availability = Availability::no_device, .detail = error.what(), .version = {}, .library = {}};
    }
  }

  [[nodiscard]] std::unique_ptr<Session> load(const Model& model, const SessionOptions& options) override {
    if (options.precision != "float32") {
      throw Error(ErrorCode::unsupported_model,
                  "the fused backend computes in float32 only, not in " + options.precision);
    }
    if (options.num_threads < 1 || options.num_threads > 1024) {
      throw Error(ErrorCode::invalid_argument,
                  "num_threads must be between 1 and 1024, not " + std::to_string(options.num_threads));
    }
    const fused::Kernels& kernels = fused::choose_kernels();
    const onnx::Graph graph = onnx::read_graph(model);
    try {
      return std::make_unique<fused::FusedSession>(fused::lower(graph), kernels, options.num_threads);
    } catch (const Error& error) {
      throw Error(error.code(), std::string(model.name) + ": " + error.what());
    }
  }
};

}  // namespace

std::unique_ptr<Backend> make_fused_backend() { return std::make_unique<FusedBackend>(); }

}  // namespace datasentinel
