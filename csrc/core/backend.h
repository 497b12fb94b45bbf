#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/device_scoring.h"
#include "core/error.h"
#include "core/tensor.h"

namespace datasentinel {

/// Why a backend can or cannot run on this machine.
enum class Availability {
  available,
  not_built,          ///< This build of the extension leaves it out.
  library_not_found,  ///< The vendor's library is not installed or does not load.
  no_device,          ///< The library is there, the device is not.
};

[[nodiscard]] constexpr std::string_view to_string(Availability availability) noexcept {
  switch (availability) {
    case Availability::available: return "available";
    case Availability::not_built: return "not built";
    case Availability::library_not_found: return "library not found";
    case Availability::no_device: return "no device";
  }
  return "unknown";
}

/// What a backend says about itself.
struct BackendStatus {
  Availability availability = Availability::not_built;
  std::string detail;   ///< The reason and what to do about it; empty when available.
  std::string version;  ///< The vendor library's version; empty when not available.
  std::string library;  ///< The path of the vendor library in use; empty when none.
};

/// A serialised ONNX model, borrowed for the duration of a load.
struct Model {
  std::string_view name;  ///< For messages: usually the file's path.
  std::span<const std::byte> onnx;
  std::string_view sha256 = {};  ///< Its digest in hexadecimal; empty: nothing is cached for it.
};

/// Where an onnxruntime backend keeps rows and results.
enum class IoBinding {
  automatic,    ///< On a GPU as `on` where ONNX Runtime can copy to it; otherwise as `off`.
  off,          ///< In the caller's memory, which ONNX Runtime copies where it has to.
  on,           ///< Bound, in memory of the device.
  cuda_graphs,  ///< As `on`, by one thread, which replays a CUDA graph where the provider captures one.
};

/// How a backend that compiles a model for a device (an *engine*) is to do so.
struct EngineOptions {
  int optimization_level = 3;        ///< 0 to 5: the time spent on finding fast kernels.
  std::size_t workspace_mib = 0;     ///< Most device memory that a layer may use; 0 leaves it to the library.
  std::size_t max_rows = 8192;       ///< Largest batch of the engine; more rows go in several.
  bool hardware_compatible = false;  ///< Runs on other GPUs of compute capability 8.0 or later, slower.
  bool version_compatible = false;   ///< Runs with other minor versions of the library.
  IoBinding io_binding = IoBinding::automatic;
  std::string cache_dir = {};  ///< Where engines are kept between runs; empty: nowhere.
  /// Told of progress as (phase, step, steps), perhaps from other threads. Throwing ends the build.
  std::function<void(const std::string&, int, int)> progress = {};
};

struct SessionOptions {
  int num_threads = 1;                ///< Threads that one call may use.
  std::string precision = "float32";  ///< Arithmetic asked for; a backend refuses what it cannot do.
  EngineOptions engine = {};
};

/// An engine that was built ahead of time and kept.
struct BuiltEngine {
  int architecture = 0;  ///< The compute capability it is for, without its dot.
  std::string library;   ///< What built it.
  std::size_t bytes = 0;
  bool built = false;  ///< False: it was there already.
};

/// Named facts about a session, in the order they should be shown.
using Facts = std::vector<std::pair<std::string, std::string>>;

/// A loaded model, ready to score.
///
/// Thread-safe: `run` may be called from several threads at once. A session owns its scratch memory and
/// allocates nothing in `run` after warm-up.
class Session {
 public:
  Session() = default;
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
  virtual ~Session() = default;

  [[nodiscard]] virtual std::size_t input_dim() const noexcept = 0;

  /// Scores `rows` (finite values, `rows.columns == input_dim()`) into the outputs that are asked for.
  /// Higher scores are more anomalous.
  ///
  /// Contributions are the graph's output `contributions`. Of a graph without a score, whose score is the
  /// mean squared error, they are the features' terms of that mean.
  ///
  /// Throws Error: unsupported_model when the model lacks what is asked for, otherwise backend_failure or
  /// out_of_memory.
  virtual void run(ConstRows rows, Outputs outputs) = 0;

  /// What a session found while it scored.
  struct Findings {
    std::optional<Cell> bad;  ///< The first value that is not finite; the outputs mean nothing then.
    /// Scores above the highest normal one, all of them finite; none where they were not counted.
    std::optional<std::uint64_t> anomalies;
  };

  /// As `run`, for rows that may have values that are not finite.
  [[nodiscard]] virtual Findings run_checked(ConstRows rows, Outputs outputs, float /*highest_normal*/) {
    Findings findings{.bad = find_non_finite(rows), .anomalies = {}};
    if (!findings.bad) run(rows, outputs);
    return findings;
  }

  /// Values in the state of a stream; 0: the model has no memory. A new stream's state is all zeros.
  [[nodiscard]] virtual std::size_t state_dim() const noexcept { return 0; }

  /// As `run`, each row of another stream: row i is scored in the state `states.before` + i state_dim(), and
  /// the state after it goes to `states.after`, which may be the same memory. `run` itself takes every row of
  /// a model with memory as the first of its stream.
  virtual void step(ConstRows rows, States states, Outputs outputs);

  /// Whether a batch of so many rows is scored on a device that the call waits for. Such calls never run on
  /// the event loop.
  [[nodiscard]] virtual bool on_device(std::size_t /*rows*/) const noexcept { return false; }

  /// How to score rows that lie on the device; null where that is not possible. Lives as long as the session.
  [[nodiscard]] virtual DeviceScoring* device_scoring() noexcept { return nullptr; }

  /// The backend's name, e.g. "onnxruntime".
  [[nodiscard]] virtual std::string_view backend() const noexcept = 0;

  /// What an operator wants to know: version, execution provider, instruction set, memory in bytes.
  [[nodiscard]] virtual Facts facts() const = 0;
};

/// A way to run models. One object per backend, for the life of the process. Thread-safe.
class Backend {
 public:
  Backend() = default;
  Backend(const Backend&) = delete;
  Backend& operator=(const Backend&) = delete;
  virtual ~Backend() = default;

  [[nodiscard]] virtual std::string_view name() const noexcept = 0;

  /// Can this backend run here, and if not, why. Opens the vendor library on the first call.
  [[nodiscard]] virtual BackendStatus status() = 0;

  /// Whether "auto" leaves this backend out.
  [[nodiscard]] virtual bool only_by_name() const noexcept { return false; }

  /// Throws Error: unavailable, invalid_model, unsupported_model, backend_failure.
  [[nodiscard]] virtual std::unique_ptr<Session> load(const Model& model, const SessionOptions& options) = 0;

  /// Builds and keeps, without a device, what `load` would build on devices of these compute capabilities (89
  /// is 8.9).
  ///
  /// Throws Error: unavailable where the backend cannot do that, otherwise as `load`.
  [[nodiscard]] virtual std::vector<BuiltEngine> build_for(const Model& /*model*/,
                                                           const SessionOptions& /*options*/,
                                                           const std::vector<int>& /*architectures*/) {
    throw Error(ErrorCode::unavailable,
                "the backend '" + std::string(name()) + "' builds nothing ahead of time");
  }
};

}  // namespace datasentinel
