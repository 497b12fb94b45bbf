#include "backends/tensorrt/builder.h"

#include <algorithm>
#include <cctype>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <utility>

#include "backends/cuda/driver.h"
#include "core/error.h"

namespace datasentinel::tensorrt {
namespace {

using abi::BuilderFlag;
using abi::Object;
using abi::OptProfileSelector;
using abi::Owned;

/// Passes TensorRT's progress on and remembers what the receiver threw, which ends the build.
class Progress final : public abi::IProgressMonitor {
 public:
  explicit Progress(const std::function<void(const std::string&, int, int)>& report) : report_(report) {}

  void phaseStart(const char* phase, const char* /*parent*/, std::int32_t steps) noexcept override {
    tell(phase, 0, &steps);
  }
  bool stepComplete(const char* phase, std::int32_t step) noexcept override {
    return tell(phase, step + 1, nullptr);
  }
  void phaseFinish(const char* phase) noexcept override { tell(phase, -1, nullptr); }

  void rethrow() const {
    if (thrown_) std::rethrow_exception(thrown_);
  }

 private:
  /// A step of -1 is the last one. TensorRT may call from several threads.
  bool tell(const char* phase, int step, const std::int32_t* started) noexcept {
    const std::lock_guard lock(mutex_);
    if (thrown_) return false;
    try {
      if (started != nullptr) steps_[phase] = *started;
      const int steps = steps_[phase];
      report_(phase, step < 0 ? steps : step, steps);
      return true;
    } catch (...) {
      thrown_ = std::current_exception();
      return false;
    }
  }

  const std::function<void(const std::string&, int, int)>& report_;
  std::mutex mutex_;
  std::map<std::string, int> steps_;
  std::exception_ptr thrown_;
};

void parse(abi::IParser& parser, const Model& model) {
  if (parser.parse(model.onnx.data(), model.onnx.size(), nullptr)) return;
  std::string text;
  for (int i = 0; i < parser.getNbErrors(); ++i) {
    if (i > 0) text += "; ";
    const abi::IParserError& error = *parser.getError(i);
    text += error.desc();
    if (error.node() < 0) continue;
    text += " (node " + std::to_string(error.node());
    if (error.nodeOperator() != nullptr) text += std::string(", ") + error.nodeOperator();
    text += ')';
  }
  throw Error(ErrorCode::unsupported_model,
              "'" + std::string(model.name) + "': TensorRT's parser refuses it: " + text, text);
}

void add_profile(const Owned<abi::VBuilder>& builder, const Owned<abi::VBuilderConfig>& config,
                 const abi::VTensor& input, std::int64_t best, std::int64_t most) {
  // The builder owns its profiles.
  const Object<abi::VOptimizationProfile>* const profile = builder->createOptimizationProfile();
  const auto set = [&](OptProfileSelector which, std::int64_t rows) {
    abi::Dims dims = input.getDimensions();
    dims.d[0] = rows;
    return profile->impl()->setDimensions(input.getName(), which, dims);
  };
  if (!set(OptProfileSelector::kMIN, 1) || !set(OptProfileSelector::kOPT, best) ||
      !set(OptProfileSelector::kMAX, most) || config->addOptimizationProfile(profile) < 0) {
    throw Error(ErrorCode::unsupported_model, std::string("TensorRT refuses the batch sizes of input '") +
                                                  input.getName() +
                                                  "': it must be [batch, D] with a fixed D");
  }
}

/// TensorRT for RTX builds for compute capabilities; the others for the device at hand, or any from Ampere
/// on.
void aim(const Owned<abi::VBuilderConfig>& config, const EngineOptions& engine, const Library& library,
         const Target& target) {
  if (library.product() != Product::rtx) {
    if (engine.version_compatible) config->setFlag(BuilderFlag::kVERSION_COMPATIBLE);
    if (engine.hardware_compatible) {
      config->setHardwareCompatibilityLevel(abi::HardwareCompatibilityLevel::kAMPERE_PLUS);
    }
    return;
  }
  if (engine.version_compatible || engine.hardware_compatible) {
    throw Error(ErrorCode::invalid_argument,
                library.name() + " has engines for compute capabilities, not " +
                    (engine.version_compatible ? "version" : "hardware") +
                    "-compatible ones; list what they shall run on with --compute-capability");
  }
  auto* const rtx = static_cast<abi::VRtxBuilderConfig*>(config.operator->());
  // A card newer than the library has no name there, but is a card all the same.
  const bool is_aimed = rtx->setNbComputeCapabilities(1) &&
                        (rtx->setComputeCapability(target.architecture, 0) ||
                         (!target.device_name.empty() && rtx->setComputeCapability(abi::kCurrentDevice, 0)));
  if (!is_aimed) {
    static_cast<void>(library.logger().take_errors());
    throw Error(ErrorCode::unsupported_model, library.name() + " builds no engines for compute capability " +
                                                  cuda::dotted(target.architecture));
  }
}

void configure(const Owned<abi::VBuilder>& builder, const Owned<abi::VBuilderConfig>& config,
               const Owned<abi::VNetworkDefinition>& network, const SessionOptions& options) {
  const EngineOptions& engine = options.engine;
  config->setBuilderOptimizationLevel(engine.optimization_level);
  // What runs is one short chain; further streams would only have to be joined again.
  config->setMaxAuxStreams(0);
  if (engine.workspace_mib > 0) {
    config->setMemoryPoolLimit(abi::MemoryPoolType::kWORKSPACE, engine.workspace_mib << 20U);
  }
  // On by default, and it would silently reduce float32 layers to the 10-bit mantissa of TF32.
  if (options.precision != "tf32") config->clearFlag(BuilderFlag::kTF32);
  if (network->getNbInputs() != 1) {
    throw Error(ErrorCode::unsupported_model,
                "expected 1 input, the graph has " + std::to_string(network->getNbInputs()));
  }
  const abi::VTensor& input = *network->getInput(0)->impl();
  if (input.getDimensions().nbDims < 1 || input.getDimensions().d[0] != -1) return;
  const auto most = static_cast<std::int64_t>(engine.max_rows);
  add_profile(builder, config, input, 1, std::min<std::int64_t>(kSmallRows, most));
  add_profile(builder, config, input, most, most);
}

std::string timing_file(const Library& library, const Target& target) {
  std::string name =
      "timing-" + library.name() + "-" +
      (library.product() == Product::rtx ? cuda::dotted(target.architecture) : target.device_name) + ".cache";
  std::replace_if(
      name.begin(), name.end(), [](unsigned char c) { return std::isalnum(c) == 0 && c != '.' && c != '-'; },
      '_');
  return name;
}

std::span<const std::byte> bytes_of(const Owned<abi::VHostMemory>& memory) {
  return {static_cast<const std::byte*>(memory->data()), memory->size()};
}

}  // namespace

EngineKey key_of(const Model& model, const SessionOptions& options, const Library& library,
                 const Target& target) {
  const EngineOptions& engine = options.engine;
  EngineKey key;
  key.add("model sha256", std::string(model.sha256))
      .add("precision", options.precision)
      .add("profiles", "1-" + std::to_string(kSmallRows) + ", 1-" + std::to_string(engine.max_rows))
      .add("optimization level", std::to_string(engine.optimization_level))
      .add("workspace MiB", std::to_string(engine.workspace_mib))
      .add("library", engine.version_compatible
                          ? "TensorRT " + std::to_string(abi::kMajor) + ", any minor version"
                          : library.name());
  if (engine.hardware_compatible) {
    key.add("GPU", "compute capability 8.0 or later");
    return key;
  }
  key.add("compute capability", cuda::dotted(target.architecture));
  if (library.product() != Product::rtx) {
    key.add("GPU", target.device_name).add("driver", std::to_string(target.driver));
  }
  return key;
}

Bytes build_engine(const Model& model, const SessionOptions& options, const Library& library,
                   const Target& target, const EngineCache& cache) {
  const auto builder = library.make_builder();
  // From TensorRT 11 on every network is strongly typed, without a flag.
  const Owned network(builder->createNetworkV2(0));
  const Owned config(builder->createBuilderConfig());
  if (!network || !config) library.fail("making a network");
  const auto parser = library.make_parser(*network);
  parse(*parser, model);
  configure(builder, config, network, options);
  aim(config, options.engine, library, target);

  const std::string timing_name = timing_file(library, target);
  const Bytes known = cache.load_hint(timing_name);
  Owned timings(config->createTimingCache(known.data(), known.size()));
  if (!timings) timings = Owned(config->createTimingCache(nullptr, 0));
  if (timings) config->setTimingCache(*timings, false);

  Progress progress(options.engine.progress);
  if (options.engine.progress) config->setProgressMonitor(&progress);
  const Owned plan(builder->buildSerializedNetwork(*network, *config));
  progress.rethrow();
  if (!plan) library.fail("building an engine for '" + std::string(model.name) + "'");

  if (timings) {
    const Owned serialized(timings->serialize());
    if (serialized) cache.store_hint(timing_name, bytes_of(serialized));
  }
  const std::span<const std::byte> bytes = bytes_of(plan);
  return {bytes.begin(), bytes.end()};
}

}  // namespace datasentinel::tensorrt
