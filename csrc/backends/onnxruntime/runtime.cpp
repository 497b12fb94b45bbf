#include "backends/onnxruntime/runtime.h"

#include <array>
#include <filesystem>

#include "core/error.h"

namespace datasentinel::onnxruntime {
namespace {

std::filesystem::path beside(const std::string& onnxruntime, const char* name) {
  return std::filesystem::path(onnxruntime).parent_path() / name;
}

/// The loader's reason for refusing TensorRT's provider, of which ONNX Runtime only says that it does not
/// load.
std::string why_not_loaded(const std::string& onnxruntime) {
  try {
    const DynamicLibrary provider(beside(onnxruntime, "libonnxruntime_providers_tensorrt.so"));
  } catch (const Error& error) {
    return std::string("; ") + error.what();
  }
  return {};
}

}  // namespace

Runtime::Runtime(const std::string& library_path) : api(library_path), env(api), cpu(api) {
  // Failures reach the user as errors with ONNX Runtime's text, so its own log stays quiet.
  api.check(api.CreateEnv(kLoggingLevelFatal, "datasentinel", env.out()), "creating the environment");
  // The variable that the Python package sets keeps reports from starting; this ends what else would be sent.
  api.check(api.DisableTelemetryEvents(env.get()), "turning telemetry off");
  api.check(api.CreateCpuMemoryInfo(kAllocatorDevice, kMemTypeDefault, cpu.out()), "describing CPU memory");
}

void Runtime::add(Provider provider, OrtSessionOptions* options, bool cuda_graphs) const {
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
    const std::array<const char*, 2> keys{"use_tf32", "enable_cuda_graph"};
    const std::array<const char*, 2> values{"0", cuda_graphs ? "1" : "0"};
    api.check(api.UpdateCUDAProviderOptions(cuda.get(), keys.data(), values.data(), keys.size()),
              "asking for CUDA");
    api.check(api.SessionOptionsAppendExecutionProvider_CUDA_V2(options, cuda.get()),
              "loading CUDA's provider");
  } catch (const Error& error) {
    std::string text = error.what();
    if (provider == Provider::tensorrt) text += why_not_loaded(api.library_path());
    throw Error(ErrorCode::unavailable, text, error.vendor_text());
  }
}

void Runtime::register_cuda_copies() const {
  static std::mutex mutex;
  static bool registered = false;
  const std::scoped_lock lock(mutex);
  if (registered) return;
  const std::string library = beside(api.library_path(), "libonnxruntime_providers_cuda.so");
  api.check(api.RegisterExecutionProviderLibrary(env.get(), "datasentinel-cuda", library.c_str()),
            "registering CUDA's copies");
  registered = true;
}

}  // namespace datasentinel::onnxruntime
