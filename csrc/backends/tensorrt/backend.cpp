#include "backends/tensorrt/backend.h"

#include <algorithm>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "backends/cuda/driver.h"
#include "backends/tensorrt/builder.h"
#include "backends/tensorrt/engine.h"
#include "backends/tensorrt/library.h"
#include "backends/tensorrt/session.h"
#include "core/engine_cache.h"
#include "core/error.h"

namespace datasentinel {
namespace {

using tensorrt::Engine;
using tensorrt::Library;
using tensorrt::Product;
using tensorrt::Target;
using tensorrt::TensorRtSession;

/// Buffers of one lane stay below this much, whatever batch is asked for.
constexpr std::size_t kMaxBufferBytes = std::size_t{64} << 20;

/// Those of the cards that TensorRT for RTX runs on; from 12.0 on, all.
bool rtx_runs_on(int architecture) {
  return architecture == 75 || (architecture >= 80 && architecture < 90 && architecture != 87) ||
         architecture >= 120;
}

class TensorRtBackend final : public Backend {
 public:
  explicit TensorRtBackend(LibraryHint hint) : hint_(std::move(hint)) {}

  [[nodiscard]] std::string_view name() const noexcept override { return "tensorrt"; }

  [[nodiscard]] BackendStatus status() override {
    BackendStatus status{
        .availability = Availability::library_not_found, .detail = {}, .version = {}, .library = {}};
    try {
      const auto opened = library();
      status.availability = Availability::no_device;
      static_cast<void>(device_for(*opened));
      status = {.availability = Availability::available,
                .detail = {},
                .version = opened->name(),
                .library = opened->path()};
    } catch (const Error& error) {
      status.detail = error.what();
    }
    return status;
  }

  [[nodiscard]] std::unique_ptr<Session> load(const Model& model, const SessionOptions& options) override {
    const auto opened = library();
    const auto driver = device_for(*opened);
    driver->enter();
    const SessionOptions bounded = checked(options);
    const Target target{.architecture = driver->architecture(),
                        .device_name = driver->device_name(),
                        .driver = driver->version()};
    const std::string name(model.name);
    const EngineCache cache = cache_for(model, bounded);
    std::shared_ptr<const Engine> engine;
    const bool built = use_stored_or_built(
        cache, key_of(model, bounded, *opened, target),
        [&](std::span<const std::byte> bytes) {
          engine = std::make_shared<const Engine>(opened, bytes, bounded.engine, name);
        },
        [&] { return build_engine(model, bounded, *opened, target, cache); });
    if (engine->input_dim() * sizeof(float) * engine->max_rows() > kMaxBufferBytes) {
      throw Error(ErrorCode::invalid_argument,
                  "'" + name + "': " + std::to_string(engine->max_rows()) + " rows of " +
                      std::to_string(engine->input_dim()) +
                      " values are too many for one batch of the tensorrt backend; lower engine_max_rows");
    }
    return std::make_unique<TensorRtSession>(std::move(engine), driver,
                                             Facts{{"engine", built ? "built" : "from the cache"}});
  }

  [[nodiscard]] std::vector<BuiltEngine> build_for(const Model& model, const SessionOptions& options,
                                                   const std::vector<int>& architectures) override {
    const auto opened = library();
    if (!opened->can_build_without_device()) {
      throw Error(ErrorCode::unavailable,
                  opened->name() +
                      " builds for the device at hand only; TensorRT for RTX (`pip install "
                      "'datasentinel[tensorrt-rtx]'`) builds for given compute capabilities");
    }
    const SessionOptions bounded = checked(options);
    const EngineCache cache = cache_for(model, bounded);
    std::vector<BuiltEngine> engines;
    for (const int architecture : architectures) {
      const Target target{.architecture = architecture};
      const EngineKey key = key_of(model, bounded, *opened, target);
      BuiltEngine engine{.architecture = architecture, .library = opened->name(), .bytes = 0, .built = false};
      engine.built = use_stored_or_built(
          cache, key, [&](std::span<const std::byte> bytes) { engine.bytes = bytes.size(); },
          [&] { return build_engine(model, bounded, *opened, target, cache); });
      if (!cache.load(key)) {
        throw Error(ErrorCode::backend_failure, "the engine cannot be kept in '" + bounded.engine.cache_dir +
                                                    "': is there space, and may you write there?");
      }
      engines.push_back(std::move(engine));
    }
    return engines;
  }

 private:
  static SessionOptions checked(const SessionOptions& options) {
    if (options.precision != "float32" && options.precision != "tf32") {
      throw Error(ErrorCode::unsupported_model,
                  "the tensorrt backend computes in the precision of the graph; '" + options.precision +
                      "' is not available, only float32 and, for its float32 layers, tf32");
    }
    SessionOptions bounded = options;
    bounded.engine.max_rows = std::max<std::size_t>(options.engine.max_rows, 1);
    return bounded;
  }

  static EngineCache cache_for(const Model& model, const SessionOptions& options) {
    return EngineCache(model.sha256.empty() ? std::string() : options.engine.cache_dir);
  }

  std::shared_ptr<const Library> library() {
    const std::lock_guard lock(mutex_);
    if (library_ == nullptr) library_ = std::make_shared<const Library>(hint_);
    return library_;
  }

  /// The device, if `library` can run on it. Nothing else of TensorRT (but for RTX) may be called before
  /// there was one: without a driver, its factories return pointers that are not null and not objects.
  std::shared_ptr<const cuda::Driver> device_for(const Library& library) {
    std::shared_ptr<const cuda::Driver> driver;
    try {
      driver = driver_.get();
    } catch (const Error& error) {
      throw Error(
          ErrorCode::unavailable,
          (library.can_build_without_device() ? "builds engines; cannot run them here: no device: " : "") +
              std::string(error.what()) + "; '" + library.path() + "' is " + library.name(),
          error.vendor_text());
    }
    if (library.product() == Product::rtx && !rtx_runs_on(driver->architecture())) {
      throw Error(ErrorCode::unavailable, "builds engines; cannot run them here: " + library.name() +
                                              " does not run on '" + driver->device_name() +
                                              "', which has compute capability " +
                                              driver->compute_capability());
    }
    return driver;
  }

  const LibraryHint hint_;
  std::mutex mutex_;
  std::shared_ptr<const Library> library_;
  cuda::DriverOnDemand driver_;
};

}  // namespace

std::unique_ptr<Backend> make_tensorrt_backend(LibraryHint library) {
  return std::make_unique<TensorRtBackend>(std::move(library));
}

}  // namespace datasentinel
