#include "backends/onnxruntime/session.h"

#include <filesystem>
#include <utility>

#include "core/error.h"

namespace datasentinel::onnxruntime {
namespace {

[[noreturn]] void refuse(const std::string& model_name, const std::string& reason) {
  throw Error(ErrorCode::unsupported_model, "'" + model_name + "': " + reason);
}

/// What the loader has against TensorRT's provider, of which ONNX Runtime only says that it does not load.
std::string why_not_loaded(const std::string& onnxruntime) {
  const auto folder = std::filesystem::path(onnxruntime).parent_path();
  try {
    const DynamicLibrary provider(folder / "libonnxruntime_providers_tensorrt.so");
  } catch (const Error& error) {
    return std::string("; ") + error.what();
  }
  return {};
}

}  // namespace

Runtime::Runtime(const std::string& library_path) : api(library_path), env(api), cpu(api) {
  // Failures reach the user as errors with ONNX Runtime's text, so its own log stays quiet.
  api.check(api.CreateEnv(kLoggingLevelFatal, "datasentinel", env.out()), "creating the environment");
  api.check(api.CreateCpuMemoryInfo(kAllocatorDevice, kMemTypeDefault, cpu.out()), "describing CPU memory");
}

void Runtime::add(Provider provider, OrtSessionOptions* options) const {
  try {
    if (provider == Provider::tensorrt) {
      TensorRtOptions tensorrt(api);
      api.check(api.CreateTensorRTProviderOptions(tensorrt.out()), "asking for TensorRT");
      api.check(api.SessionOptionsAppendExecutionProvider_TensorRT_V2(options, tensorrt.get()),
                "loading TensorRT's provider");
      return;
    }
    CudaOptions cuda(api);
    api.check(api.CreateCUDAProviderOptions(cuda.out()), "asking for CUDA");
    // TF32 would leave 10 bits of a float32 layer's mantissa, where float32 is what was asked for.
    const char* key = "use_tf32";
    const char* value = "0";
    api.check(api.UpdateCUDAProviderOptions(cuda.get(), &key, &value, 1), "asking for CUDA");
    api.check(api.SessionOptionsAppendExecutionProvider_CUDA_V2(options, cuda.get()),
              "loading CUDA's provider");
  } catch (const Error& error) {
    std::string text = error.what();
    if (provider == Provider::tensorrt) text += why_not_loaded(api.library_path());
    throw Error(ErrorCode::unavailable, text, error.vendor_text());
  }
}

OnnxRuntimeSession::OnnxRuntimeSession(std::shared_ptr<Runtime> runtime, const Model& model,
                                       const SessionOptions& options, Provider provider)
    : runtime_(std::move(runtime)),
      provider_(provider),
      session_(runtime_->api),
      num_threads_(options.num_threads),
      lanes_([] { return std::make_unique<Lane>(); }) {
  const Api& api = runtime_->api;
  const std::string name(model.name);
  const std::string what = "loading '" + name + "'";
  if (options.precision != "float32") {
    refuse(name, "the onnxruntime backend computes in the precision of the graph; precision '" +
                     options.precision + "' is not available");
  }
  SessionOptionsHandle session_options(api);
  api.check(api.CreateSessionOptions(session_options.out()), what);
  api.check(api.SetSessionGraphOptimizationLevel(session_options.get(), kGraphOptimizationAll), what);
  api.check(api.SetIntraOpNumThreads(session_options.get(), num_threads_), what);
  api.check(api.SetInterOpNumThreads(session_options.get(), 1), what);
  // A spinning pool burns a core that the server's event loop needs.
  api.check(api.AddSessionConfigEntry(session_options.get(), "session.intra_op.allow_spinning", "0"), what);
  api.check(api.AddSessionConfigEntry(session_options.get(), "session.inter_op.allow_spinning", "0"), what);
  if (provider_ != Provider::cpu) {
    // Without this, nodes that the provider does not take would run on the CPU, and nobody would be told.
    api.check(api.AddSessionConfigEntry(session_options.get(), "session.disable_cpu_ep_fallback", "1"), what);
    runtime_->add(provider_, session_options.get());
  }
  api.check(api.CreateSessionFromArray(runtime_->env.get(), model.onnx.data(), model.onnx.size(),
                                       session_options.get(), session_.out()),
            what);
  read_signature(name);
}

OnnxRuntimeSession::TensorType OnnxRuntimeSession::tensor_type(std::size_t index, bool is_input) const {
  const Api& api = runtime_->api;
  const char* what = "reading the model's inputs and outputs";
  TensorType type;

  OrtAllocator* allocator = nullptr;  // ONNX Runtime's own, never released.
  api.check(api.GetAllocatorWithDefaultOptions(&allocator), what);
  char* name = nullptr;
  api.check(is_input ? api.SessionGetInputName(session_.get(), index, allocator, &name)
                     : api.SessionGetOutputName(session_.get(), index, allocator, &name),
            what);
  type.name = name;
  api.check(api.AllocatorFree(allocator, name), what);

  TypeInfo info(api);
  api.check(is_input ? api.SessionGetInputTypeInfo(session_.get(), index, info.out())
                     : api.SessionGetOutputTypeInfo(session_.get(), index, info.out()),
            what);
  const OrtTensorTypeAndShapeInfo* shape = nullptr;  // Borrowed from info; null when not a tensor.
  api.check(api.CastTypeInfoToTensorInfo(info.get(), &shape), what);
  if (shape == nullptr) return type;
  api.check(api.GetTensorElementType(shape, &type.element_type), what);
  std::size_t rank = 0;
  api.check(api.GetDimensionsCount(shape, &rank), what);
  type.shape.resize(rank);
  api.check(api.GetDimensions(shape, type.shape.data(), rank), what);
  return type;
}

void OnnxRuntimeSession::read_signature(const std::string& model_name) {
  const Api& api = runtime_->api;
  std::size_t input_count = 0;
  std::size_t output_count = 0;
  api.check(api.SessionGetInputCount(session_.get(), &input_count), "counting inputs");
  api.check(api.SessionGetOutputCount(session_.get(), &output_count), "counting outputs");
  if (input_count != 1) {
    refuse(model_name, "expected 1 input, the graph has " + std::to_string(input_count));
  }

  const TensorType input = tensor_type(0, true);
  if (input.element_type != kElementTypeFloat || input.shape.size() != 2 || input.shape[1] < 1) {
    refuse(model_name, "input '" + input.name + "' must be float32 [batch, D] with a fixed D");
  }
  if (input.shape[0] > 1) {
    refuse(model_name, "input '" + input.name + "' has a fixed batch of " + std::to_string(input.shape[0]) +
                           "; export it with a dynamic batch axis");
  }
  input_name_ = input.name;
  input_dim_ = static_cast<std::size_t>(input.shape[1]);
  one_row_at_a_time_ = input.shape[0] == 1;

  for (std::size_t index = 0; index < output_count; ++index) {
    const TensorType output = tensor_type(index, false);
    if (output.element_type != kElementTypeFloat) continue;
    const std::size_t rank = output.shape.size();
    if (output.name == "score" && (rank == 1 || (rank == 2 && output.shape[1] == 1))) {
      score_name_ = output.name;
      score_rank_ = rank;
    } else if (output.name == "output" && rank == 2 && output.shape[1] == input.shape[1]) {
      reconstruction_name_ = output.name;
    } else if (output.name == "contributions" && rank == 2 && output.shape[1] == input.shape[1]) {
      contributions_name_ = output.name;
    }
  }
  if (score_name_.empty() && reconstruction_name_.empty()) {
    refuse(model_name, "needs an output 'score' float32 [batch] or 'output' float32 [batch, " +
                           std::to_string(input_dim_) + "]");
  }
}

void OnnxRuntimeSession::bind(BoundTensor& tensor, const float* data, std::size_t rows,
                              bool is_matrix) const {
  if (tensor.value.get() != nullptr && tensor.data == data && tensor.rows == rows) return;
  const Api& api = runtime_->api;
  tensor.value = Value(api);
  const std::size_t columns = is_matrix ? input_dim_ : 1;
  const std::array<std::int64_t, 2> shape{static_cast<std::int64_t>(rows),
                                          static_cast<std::int64_t>(columns)};
  const std::size_t rank = is_matrix ? 2 : score_rank_;
  // The C API takes a mutable pointer for inputs too; it does not write to them.
  api.check(api.CreateTensorWithDataAsOrtValue(runtime_->cpu.get(), const_cast<float*>(data),
                                               rows * columns * sizeof(float), shape.data(), rank,
                                               kElementTypeFloat, tensor.value.out()),
            "binding a tensor");
  tensor.data = data;
  tensor.rows = rows;
}

void OnnxRuntimeSession::run_bound(Lane& lane, ConstRows rows, Outputs outputs) const {
  const bool score_in_graph = outputs.scores != nullptr && !score_name_.empty();
  const bool score_by_us = outputs.scores != nullptr && score_name_.empty();
  const bool contributions_in_graph = outputs.contributions != nullptr && !contributions_name_.empty();
  const bool contributions_by_us = outputs.contributions != nullptr && contributions_name_.empty();
  float* reconstructions = outputs.reconstructions;
  if ((score_by_us || contributions_by_us) && reconstructions == nullptr) {
    if (lane.reconstruction_scratch.size() < rows.size()) lane.reconstruction_scratch.resize(rows.size());
    reconstructions = lane.reconstruction_scratch.data();
  }

  std::array<const char*, 3> names{};
  std::array<OrtValue*, 3> values{};
  std::size_t count = 0;
  if (score_in_graph) {
    bind(lane.scores, outputs.scores, rows.rows, false);
    names[count] = score_name_.c_str();
    values[count++] = lane.scores.value.get();
  }
  if (reconstructions != nullptr) {
    bind(lane.reconstructions, reconstructions, rows.rows, true);
    names[count] = reconstruction_name_.c_str();
    values[count++] = lane.reconstructions.value.get();
  }
  if (contributions_in_graph) {
    bind(lane.contributions, outputs.contributions, rows.rows, true);
    names[count] = contributions_name_.c_str();
    values[count++] = lane.contributions.value.get();
  }
  bind(lane.input, rows.data, rows.rows, true);

  const Api& api = runtime_->api;
  const char* input_name = input_name_.c_str();
  const OrtValue* input = lane.input.value.get();
  api.check(api.Run(session_.get(), nullptr, &input_name, &input, 1, names.data(), count, values.data()),
            "running the model");
  if (score_by_us) mean_squared_error(rows, reconstructions, outputs.scores);
  if (contributions_by_us) squared_error_contributions(rows, reconstructions, outputs.contributions);
}

void OnnxRuntimeSession::run(ConstRows rows, Outputs outputs) {
  if (outputs.reconstructions != nullptr && reconstruction_name_.empty()) {
    throw Error(ErrorCode::unsupported_model, "this model scores only; it has no output 'output'");
  }
  if (outputs.contributions != nullptr && contributions_name_.empty() && !score_name_.empty()) {
    throw Error(ErrorCode::unsupported_model,
                "this model does not explain its scores; it has no output 'contributions'");
  }
  const auto lane = lanes_.borrow();
  if (!one_row_at_a_time_) {
    run_bound(*lane, rows, outputs);
    return;
  }
  for (std::size_t i = 0; i < rows.rows; ++i) {
    const Outputs row_outputs{
        .scores = outputs.scores == nullptr ? nullptr : outputs.scores + i,
        .reconstructions =
            outputs.reconstructions == nullptr ? nullptr : outputs.reconstructions + i * input_dim_,
        .contributions = outputs.contributions == nullptr ? nullptr : outputs.contributions + i * input_dim_};
    run_bound(*lane, {.data = rows.row(i), .rows = 1, .columns = rows.columns}, row_outputs);
  }
}

Facts OnnxRuntimeSession::facts() const {
  return {{"onnxruntime", runtime_->api.version()},
          {"library", runtime_->api.library_path()},
          {"execution provider", to_string(provider_)},
          {"threads", std::to_string(num_threads_)},
          {"score", score_name_.empty() ? "mean squared error, by the core" : "in the graph"}};
}

}  // namespace datasentinel::onnxruntime
