#include "backends/tensorrt/backend.h"

#include <algorithm>
#include <mutex>
#include <utility>

#include "backends/tensorrt/builder.h"
#include "backends/tensorrt/engine.h"
#include "backends/tensorrt/session.h"
#include "core/engine_cache.h"
#include "core/error.h"

namespace datasentinel {
namespace {

/// Buffers of one lane stay below this much, whatever batch is asked for.
constexpr std::size_t kMaxBufferBytes = std::size_t{64} << 20;

class TensorRtBackend final : public Backend {
 public:
  explicit TensorRtBackend(LibraryHint hint) : hint_(std::move(hint)) {}

  [[nodiscard]] std::string_view name() const noexcept override { return "tensorrt"; }

  [[nodiscard]] BackendStatus status() override {
    BackendStatus status{
        .availability = Availability::library_not_found, .detail = {}, .version = {}, .library = {}};
    try {
      const auto library = open();
      status.availability = Availability::no_device;
      static_cast<void>(tensorrt::current_device());
      status = {.availability = Availability::available,
                .detail = {},
                .version = library->version(),
                .library = library->path()};
    } catch (const Error& error) {
      status.detail = error.what();
    }
    return status;
  }

  [[nodiscard]] std::unique_ptr<Session> load(const Model& model, const SessionOptions& options) override {
    const auto library = open();
    const tensorrt::Device device = tensorrt::current_device();
    check(options);
    SessionOptions bounded = options;
    bounded.engine.max_rows = std::max<std::size_t>(options.engine.max_rows, 1);

    const std::string name(model.name);
    const EngineCache cache(model.sha256.empty() ? std::string() : options.engine.cache_dir);
    const EngineKey key = tensorrt::key_of(model, bounded, *library, device);
    std::shared_ptr<const tensorrt::Engine> engine;
    const bool built = use_stored_or_built(
        cache, key,
        [&](std::span<const std::byte> bytes) {
          engine = std::make_shared<const tensorrt::Engine>(library, bytes, bounded.engine, name);
        },
        [&] { return tensorrt::build_engine(model, bounded, *library, device, cache); });
    if (engine->input_dim() * sizeof(float) * engine->max_rows() > kMaxBufferBytes) {
      throw Error(ErrorCode::invalid_argument,
                  "'" + name + "': " + std::to_string(engine->max_rows()) + " rows of " +
                      std::to_string(engine->input_dim()) +
                      " values are too many for one batch of the tensorrt backend; lower engine_max_rows");
    }
    return std::make_unique<tensorrt::TensorRtSession>(std::move(engine), device,
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

  std::shared_ptr<const tensorrt::Library> open() {
    const std::lock_guard lock(mutex_);
    if (library_ == nullptr) library_ = std::make_shared<const tensorrt::Library>(hint_);
    return library_;
  }

  const LibraryHint hint_;
  std::mutex mutex_;
  std::shared_ptr<const tensorrt::Library> library_;
};

}  // namespace

std::unique_ptr<Backend> make_tensorrt_backend(LibraryHint library) {
  return std::make_unique<TensorRtBackend>(std::move(library));
}

const char* tensorrt_headers() noexcept { return tensorrt::header_version(); }

}  // namespace datasentinel
