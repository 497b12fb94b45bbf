#include "backends/tensorrt/engine.h"

#include <algorithm>
#include <utility>

#include "backends/tensorrt/builder.h"
#include "core/error.h"

namespace datasentinel::tensorrt {
namespace {

[[noreturn]] void refuse(const std::string& model_name, const std::string& reason) {
  throw Error(ErrorCode::unsupported_model, "'" + model_name + "': " + reason);
}

}  // namespace

Engine::Engine(std::shared_ptr<const Library> library, std::span<const std::byte> bytes,
               const EngineOptions& options, const std::string& model_name)
    : library_(std::move(library)), runtime_(library_->make_runtime()), size_bytes_(bytes.size()) {
  // A version-compatible engine carries the code that runs it. It is from our own folder, which no other user
  // may write into.
  if (options.version_compatible) runtime_->setEngineHostCodeAllowed(true);
  auto* const engine = runtime_->deserializeCudaEngine(bytes.data(), bytes.size());
  if (!is_object(engine)) library_->fail("loading the engine of '" + model_name + "'");
  engine_ = abi::Owned(engine);
  read_signature(options, model_name);
  for (int profile = 0; profile < engine_->getNbOptimizationProfiles(); ++profile) {
    scratch_bytes_ = std::max(scratch_bytes_, engine_->getDeviceMemorySizeForProfileV2(profile));
  }
}

void Engine::read_signature(const EngineOptions& options, const std::string& model_name) {
  for (int index = 0; index < engine_->getNbIOTensors(); ++index) {
    const std::string name = engine_->getIOTensorName(index);
    const abi::Dims shape = engine_->getTensorShape(name.c_str());
    const bool is_float32 = engine_->getTensorDataType(name.c_str()) == abi::DataType::kFLOAT;
    const bool is_input = engine_->getTensorIOMode(name.c_str()) == abi::TensorIOMode::kINPUT;
    if (is_input) {
      if (!is_float32 || shape.nbDims != 2 || shape.d[1] < 1 || shape.d[0] > 1) {
        refuse(model_name, "input '" + name + "' must be float32 [batch, D] with a fixed D");
      }
      if (name == "state") refuse(model_name, "the tensorrt backend runs no models with memory");
      input_ = name;
      input_dim_ = static_cast<std::size_t>(shape.d[1]);
      max_rows_ = shape.d[0] == 1 ? 1 : options.max_rows;
      continue;
    }
    const bool is_row = shape.nbDims == 1 || (shape.nbDims == 2 && shape.d[1] == 1);
    if (name == "score" && is_float32 && is_row) {
      score_ = name;
    } else if (name == "output" && is_float32 && shape.nbDims == 2) {
      reconstruction_ = name;
    } else if (name == "contributions" && is_float32 && shape.nbDims == 2) {
      contributions_ = name;
    } else {
      refuse(model_name, "output '" + name + "' is neither 'score' [batch] nor 'output' or 'contributions' " +
                             "[batch, D] in float32");
    }
  }
  if (score_.empty() && reconstruction_.empty()) refuse(model_name, "it has neither 'score' nor 'output'");
}

int Engine::profile_for(std::size_t rows) const noexcept {
  return engine_->getNbOptimizationProfiles() > 1 && rows > static_cast<std::size_t>(kSmallRows) ? 1 : 0;
}

abi::Owned<abi::VExecutionContext> Engine::make_context() const {
  auto* const context =
      engine_->createExecutionContext(abi::ExecutionContextAllocationStrategy::kUSER_MANAGED);
  if (!is_object(context)) library_->fail("making an execution context");
  return abi::Owned(context);
}

}  // namespace datasentinel::tensorrt
