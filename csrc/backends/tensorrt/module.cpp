#include "backends/tensorrt/module.h"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "backends/tensorrt/builder.h"
#include "backends/tensorrt/engine.h"
#include "backends/tensorrt/session.h"
#include "core/engine_cache.h"
#include "core/error.h"

namespace datasentinel::tensorrt {
namespace {

/// Buffers of one lane stay below this much, whatever batch is asked for.
constexpr std::size_t kMaxBufferBytes = std::size_t{64} << 20;

class ModuleBackend final : public Backend {
 public:
  explicit ModuleBackend(Runtime&& runtime) : library_(std::make_shared<const Library>(std::move(runtime))) {}

  [[nodiscard]] std::string_view name() const noexcept override { return "tensorrt"; }

  [[nodiscard]] BackendStatus status() override {
    BackendStatus status{.availability = Availability::no_device, .detail = {}, .version = {}, .library = {}};
    try {
      static_cast<void>(current_device());
      status = {.availability = Availability::available,
                .detail = {},
                .version = library_->version(),
                .library = library_->path()};
    } catch (const Error& error) {
      status.detail =
          std::string(error.what()) + "; '" + library_->path() + "' is TensorRT " + library_->version();
    }
    return status;
  }

  [[nodiscard]] std::unique_ptr<Session> load(const Model& model, const SessionOptions& options) override {
    const Device device = current_device();
    check(options);
    SessionOptions bounded = options;
    bounded.engine.max_rows = std::max<std::size_t>(options.engine.max_rows, 1);

    const std::string name(model.name);
    const EngineCache cache(model.sha256.empty() ? std::string() : options.engine.cache_dir);
    const EngineKey key = key_of(model, bounded, *library_, device);
    std::shared_ptr<const Engine> engine;
    const bool built = use_stored_or_built(
        cache, key,
        [&](std::span<const std::byte> bytes) {
          engine = std::make_shared<const Engine>(library_, bytes, bounded.engine, name);
        },
        [&] { return build_engine(model, bounded, *library_, device, cache); });
    if (engine->input_dim() * sizeof(float) * engine->max_rows() > kMaxBufferBytes) {
      throw Error(ErrorCode::invalid_argument,
                  "'" + name + "': " + std::to_string(engine->max_rows()) + " rows of " +
                      std::to_string(engine->input_dim()) +
                      " values are too many for one batch of the tensorrt backend; lower engine_max_rows");
    }
    return std::make_unique<TensorRtSession>(std::move(engine), device,
                                             Facts{{"engine", built ? "built" : "from the cache"}});
  }

 private:
  static void check(const SessionOptions& options) {
    if (options.precision != "float32" && options.precision != "tf32") {
      throw Error(ErrorCode::unsupported_model,
                  "the tensorrt backend computes in the precision of the graph; '" + options.precision +
                      "' is not available, only float32 and, for its float32 layers, tf32");
    }
  }

  const std::shared_ptr<const Library> library_;
};

}  // namespace
}  // namespace datasentinel::tensorrt

extern "C" __attribute__((visibility("default"))) datasentinel::Backend* datasentinel_tensorrt_backend(
    datasentinel::tensorrt::Runtime&& runtime) {
  return new datasentinel::tensorrt::ModuleBackend(std::move(runtime));
}
