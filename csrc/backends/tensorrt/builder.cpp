#include "backends/tensorrt/builder.h"

#include <algorithm>
#include <cctype>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <utility>

#include "core/error.h"

namespace datasentinel::tensorrt {
namespace {

using nvinfer1::BuilderFlag;
using nvinfer1::OptProfileSelector;

[[noreturn]] void fail(const Library& library, const std::string& what) {
  const std::string text = library.logger().take_errors();
  throw Error(ErrorCode::backend_failure, what + ": TensorRT " + library.version() + " says: " + text, text);
}

/// Passes TensorRT's progress on and remembers what the receiver threw, which ends the build.
class Progress final : public nvinfer1::IProgressMonitor {
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

nvinfer1::NetworkDefinitionCreationFlags network_flags() {
#if NV_TENSORRT_MAJOR < 11
  return 1U << static_cast<unsigned>(nvinfer1::NetworkDefinitionCreationFlag::kSTRONGLY_TYPED);
#else
  return 0;  // From TensorRT 11 on every network is strongly typed.
#endif
}

void parse(nvonnxparser::IParser& parser, const Model& model) {
  if (parser.parse(model.onnx.data(), model.onnx.size())) return;
  std::string text;
  for (int i = 0; i < parser.getNbErrors(); ++i) {
    if (i > 0) text += "; ";
    const nvonnxparser::IParserError& error = *parser.getError(i);
    text += error.desc();
    if (error.node() >= 0) text += " (node " + std::to_string(error.node()) + ")";
  }
  throw Error(ErrorCode::unsupported_model,
              "'" + std::string(model.name) + "': TensorRT's parser refuses it: " + text, text);
}

void add_profile(nvinfer1::IBuilder& builder, nvinfer1::IBuilderConfig& config,
                 const nvinfer1::ITensor& input, std::int64_t best, std::int64_t most) {
  nvinfer1::IOptimizationProfile* profile = builder.createOptimizationProfile();
  const auto shape = [&](std::int64_t rows) {
    nvinfer1::Dims dims = input.getDimensions();
    dims.d[0] = rows;
    return dims;
  };
  const char* name = input.getName();
  const bool set = profile->setDimensions(name, OptProfileSelector::kMIN, shape(1)) &&
                   profile->setDimensions(name, OptProfileSelector::kOPT, shape(best)) &&
                   profile->setDimensions(name, OptProfileSelector::kMAX, shape(most));
  if (!set || config.addOptimizationProfile(profile) < 0) {
    throw Error(ErrorCode::unsupported_model, std::string("TensorRT refuses the batch sizes of input '") +
                                                  name + "': it must be [batch, D] with a fixed D");
  }
}

void configure(nvinfer1::IBuilder& builder, nvinfer1::IBuilderConfig& config,
               const nvinfer1::INetworkDefinition& network, const SessionOptions& options) {
  const EngineOptions& engine = options.engine;
  config.setBuilderOptimizationLevel(engine.optimization_level);
  // What runs is one short chain; further streams would only have to be joined again.
  config.setMaxAuxStreams(0);
  if (engine.workspace_mib > 0) {
    config.setMemoryPoolLimit(nvinfer1::MemoryPoolType::kWORKSPACE, engine.workspace_mib << 20U);
  }
  // On by default, and it would quietly give float32 layers the 10-bit mantissa of TF32.
  if (options.precision != "tf32") config.clearFlag(BuilderFlag::kTF32);
  if (engine.version_compatible) config.setFlag(BuilderFlag::kVERSION_COMPATIBLE);
  if (engine.hardware_compatible) {
    config.setHardwareCompatibilityLevel(nvinfer1::HardwareCompatibilityLevel::kAMPERE_PLUS);
  }
  if (network.getNbInputs() != 1) {
    throw Error(ErrorCode::unsupported_model,
                "expected 1 input, the graph has " + std::to_string(network.getNbInputs()));
  }
  const nvinfer1::ITensor& input = *network.getInput(0);
  if (input.getDimensions().nbDims < 1 || input.getDimensions().d[0] != -1) return;
  const auto most = static_cast<std::int64_t>(engine.max_rows);
  add_profile(builder, config, input, 1, std::min<std::int64_t>(kSmallRows, most));
  add_profile(builder, config, input, most, most);
}

std::string timing_file(const Library& library, const Device& device) {
  std::string name = "timing-" + library.version() + "-" + device.name + ".cache";
  std::replace_if(
      name.begin(), name.end(), [](unsigned char c) { return std::isalnum(c) == 0 && c != '.' && c != '-'; },
      '_');
  return name;
}

std::span<const std::byte> bytes_of(const nvinfer1::IHostMemory& memory) {
  return {static_cast<const std::byte*>(memory.data()), memory.size()};
}

}  // namespace

EngineKey key_of(const Model& model, const SessionOptions& options, const Library& library,
                 const Device& device) {
  const EngineOptions& engine = options.engine;
  EngineKey key;
  key.add("model sha256", std::string(model.sha256))
      .add("precision", options.precision)
      .add("profiles", "1-" + std::to_string(kSmallRows) + ", 1-" + std::to_string(engine.max_rows))
      .add("optimization level", std::to_string(engine.optimization_level))
      .add("workspace MiB", std::to_string(engine.workspace_mib))
      .add("TensorRT", engine.version_compatible ? std::to_string(NV_TENSORRT_MAJOR) + ", any minor version"
                                                 : library.version());
  if (engine.hardware_compatible) {
    key.add("GPU", "compute capability 8.0 or later");
  } else {
    key.add("GPU", device.name)
        .add("compute capability",
             std::to_string(device.compute_major) + "." + std::to_string(device.compute_minor))
        .add("driver", std::to_string(device.driver));
  }
  return key;
}

Bytes build_engine(const Model& model, const SessionOptions& options, const Library& library,
                   const Device& device, const EngineCache& cache) {
  const auto builder = library.make_builder();
  const std::unique_ptr<nvinfer1::INetworkDefinition> network(builder->createNetworkV2(network_flags()));
  const std::unique_ptr<nvinfer1::IBuilderConfig> config(builder->createBuilderConfig());
  if (network == nullptr || config == nullptr) fail(library, "making a network");
  const auto parser = library.make_parser(*network);
  parse(*parser, model);
  configure(*builder, *config, *network, options);

  const std::string timing_name = timing_file(library, device);
  const Bytes known = cache.load_hint(timing_name);
  std::unique_ptr<nvinfer1::ITimingCache> timings(config->createTimingCache(known.data(), known.size()));
  if (timings == nullptr) timings.reset(config->createTimingCache(nullptr, 0));
  if (timings != nullptr) config->setTimingCache(*timings, false);

  Progress progress(options.engine.progress);
  if (options.engine.progress) config->setProgressMonitor(&progress);
  const std::unique_ptr<nvinfer1::IHostMemory> plan(builder->buildSerializedNetwork(*network, *config));
  progress.rethrow();
  if (plan == nullptr) fail(library, "building an engine for '" + std::string(model.name) + "'");

  if (timings != nullptr) {
    const std::unique_ptr<nvinfer1::IHostMemory> serialized(timings->serialize());
    if (serialized != nullptr) cache.store_hint(timing_name, bytes_of(*serialized));
  }
  const std::span<const std::byte> bytes = bytes_of(*plan);
  return {bytes.begin(), bytes.end()};
}

}  // namespace datasentinel::tensorrt
