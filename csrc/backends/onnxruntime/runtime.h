#pragma once

#include <mutex>
#include <shared_mutex>
#include <string>

#include "backends/onnxruntime/api.h"

namespace datasentinel::onnxruntime {

/// Where ONNX Runtime runs a graph.
enum class Provider { cpu, cuda, tensorrt };

[[nodiscard]] constexpr const char* to_string(Provider provider) noexcept {
  switch (provider) {
    case Provider::cpu: return "CPUExecutionProvider";
    case Provider::cuda: return "CUDAExecutionProvider";
    case Provider::tensorrt: return "TensorrtExecutionProvider";
  }
  return "unknown";
}

/// The backend that runs graphs on `provider`.
[[nodiscard]] constexpr const char* backend_of(Provider provider) noexcept {
  switch (provider) {
    case Provider::cpu: return "onnxruntime";
    case Provider::cuda: return "onnxruntime-cuda";
    case Provider::tensorrt: return "onnxruntime-tensorrt";
  }
  return "unknown";
}

/// Keeps the captures of CUDA graphs and all other work on the device apart: ONNX Runtime captures in CUDA's
/// global mode, in which an allocation or a copy by any other thread fails and spoils the capture.
class CaptureGate {
 public:
  /// Held while a model is loaded, run or dropped.
  [[nodiscard]] std::shared_lock<std::shared_mutex> work() {
    const std::scoped_lock turn(turn_);
    return std::shared_lock(mutex_);
  }

  /// Held during a capture. Waits for the work under way; new work waits behind it.
  [[nodiscard]] std::unique_lock<std::shared_mutex> capture() {
    const std::scoped_lock turn(turn_);
    return std::unique_lock(mutex_);
  }

 private:
  std::mutex turn_;
  std::shared_mutex mutex_;
};

/// What one library offers to all sessions: its entry points, its environment and the CPU memory tag.
struct Runtime {
  explicit Runtime(const std::string& library_path);

  Api api;
  Env env;
  MemoryInfo cpu;
  CaptureGate gate;

  /// Adds `provider`, which is not the CPU, to `options`; `cuda_graphs` is for CUDA only. Throws
  /// Error{unavailable} with ONNX Runtime's words when it cannot be loaded: a missing library of NVIDIA's,
  /// say.
  void add(Provider provider, OrtSessionOptions* options, bool cuda_graphs) const;

  /// Lets `CopyTensors` copy to and from CUDA's memory, once for the process. Throws Error with ONNX
  /// Runtime's words.
  void register_cuda_copies() const;
};

}  // namespace datasentinel::onnxruntime
