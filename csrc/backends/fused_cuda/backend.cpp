#include "backends/fused_cuda/backend.h"

#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "backends/cuda/driver.h"
#include "backends/fused/lowering.h"
#include "backends/fused_cuda/choice.h"
#include "backends/fused_cuda/nvrtc.h"
#include "backends/fused_cuda/session.h"
#include "backends/fused_cuda/source.h"
#include "core/engine_cache.h"
#include "core/error.h"
#include "onnx/graph.h"

namespace datasentinel {
namespace {

using fused_cuda::CudaSession;
using fused_cuda::TensorCores;

/// That of the kernels' instructions: cp.async and products on tensor cores of bf16 and tf32.
constexpr int kLeastArchitecture = 80;
constexpr int kWgmmaArchitecture = 90;  ///< No later one has it.
// Of each block, in a trial: so few rows that it takes milliseconds, so many that launching them takes less.
constexpr std::size_t kTrialTurns = 4;

class FusedCudaBackend final : public Backend {
 public:
  explicit FusedCudaBackend(LibraryHint nvrtc) : hint_(std::move(nvrtc)) {}

  [[nodiscard]] std::string_view name() const noexcept override { return "fused-cuda"; }

  [[nodiscard]] BackendStatus status() override {
    BackendStatus status{.availability = Availability::no_device, .detail = {}, .version = {}, .library = {}};
    try {
      static_cast<void>(driver());
      status.availability = Availability::library_not_found;
      const auto compiler = nvrtc();
      status = {.availability = Availability::available,
                .detail = {},
                .version = "NVRTC " + compiler->version(),
                .library = compiler->path()};
    } catch (const Error& error) {
      status.detail = error.what();
    }
    return status;
  }

  [[nodiscard]] std::unique_ptr<Session> load(const Model& model, const SessionOptions& options) override {
    const auto precision = fused_cuda::precision_of(options.precision);
    if (!precision) {
      throw Error(
          ErrorCode::unsupported_model,
          "the fused-cuda backend computes in float32, tf32, bf16 or fp16, not in " + options.precision);
    }
    const auto device = driver();
    const auto compiler = nvrtc();
    const onnx::Graph graph = onnx::read_graph(model);
    try {
      const fused::Program program = fused::lower(graph);
      const EngineCache cache(options.engine.cache_dir);
      const auto key_of = [&](const fused_cuda::Source& source, const std::string& kind) {
        EngineKey key;
        key.add("kind", kind)
            .add("source",
                 std::to_string(source.text.size()) + " " +
                     checksum_text(std::as_bytes(std::span(source.text.data(), source.text.size()))))
            .add("model sha256", std::string(model.sha256))
            .add("NVRTC", compiler->version())
            .add("GPU", device->device_name())
            .add("compute capability", std::to_string(device->architecture()))
            .add("driver", std::to_string(device->version()));
        return key;
      };
      const auto load_source = [&](const fused_cuda::Source& source) {
        std::unique_ptr<CudaSession> session;
        const auto use = [&](std::span<const std::byte> cubin) {
          session = std::make_unique<CudaSession>(
              device, source, Bytes(cubin.begin(), cubin.end()), program,
              Facts{{"NVRTC", compiler->version()}, {"compiler", compiler->path()}});
        };
        use_stored_or_built(cache, key_of(source, "fused-cuda"), use, [&] {
          return compiler->compile(source.text, target_of(source, device->architecture()));
        });
        return session;
      };
      const fused_cuda::Source mma = fused_cuda::generate(program, device->shared_bytes(), *precision);
      std::optional<fused_cuda::Source> wgmma;
      if (device->architecture() == kWgmmaArchitecture) {
        wgmma = fused_cuda::generate_wgmma(program, device->shared_bytes(), *precision);
      }
      if (!wgmma) return load_source(mma);
      const auto blocks = static_cast<std::size_t>(device->multiprocessors());
      return fused_cuda::load_faster(
          *device, cache, key_of(*wgmma, "fused-cuda, mma or wgmma"),
          {.load = [&](TensorCores some) { return load_source(some == TensorCores::mma ? mma : *wgmma); },
           .rows = kTrialTurns * blocks * static_cast<std::size_t>(wgmma->scores_only.bulk.rows),
           .precision = *precision});
    } catch (const Error& error) {
      throw Error(error.code(), std::string(model.name) + ": " + error.what(), error.vendor_text());
    }
  }

 private:
  std::shared_ptr<const cuda::Driver> driver() {
    auto driver = driver_.get();
    if (driver->architecture() < kLeastArchitecture) {
      throw Error(ErrorCode::unavailable, "'" + driver->device_name() + "' has compute capability " +
                                              driver->compute_capability() + "; 8.0 or later is needed");
    }
    return driver;
  }

  std::shared_ptr<const fused_cuda::Nvrtc> nvrtc() {
    const std::lock_guard lock(mutex_);
    if (nvrtc_ == nullptr) {
      if (hint_.path.empty()) throw Error(ErrorCode::unavailable, hint_.problem);
      nvrtc_ = std::make_shared<const fused_cuda::Nvrtc>(hint_.path);
    }
    return nvrtc_;
  }

  const LibraryHint hint_;
  std::mutex mutex_;
  cuda::DriverOnDemand driver_;
  std::shared_ptr<const fused_cuda::Nvrtc> nvrtc_;
};

}  // namespace

std::unique_ptr<Backend> make_fused_cuda_backend(LibraryHint nvrtc) {
  return std::make_unique<FusedCudaBackend>(std::move(nvrtc));
}

}  // namespace datasentinel
