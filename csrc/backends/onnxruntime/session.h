#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "backends/onnxruntime/api.h"
#include "core/backend.h"
#include "core/pool.h"

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

/// What one library offers to all sessions: its entry points, its environment and the CPU memory tag.
struct Runtime {
  explicit Runtime(const std::string& library_path);

  Api api;
  Env env;
  MemoryInfo cpu;

  /// Adds `provider`, which is not the CPU, to `options`. Throws Error{unavailable} with ONNX Runtime's words
  /// when it cannot be loaded: a missing library of NVIDIA's, say.
  void add(Provider provider, OrtSessionOptions* options) const;
};

/// A model loaded by ONNX Runtime. Inputs and outputs are bound to the caller's memory. Thread-safe.
class OnnxRuntimeSession final : public Session {
 public:
  OnnxRuntimeSession(std::shared_ptr<Runtime> runtime, const Model& model, const SessionOptions& options,
                     Provider provider);

  [[nodiscard]] std::size_t input_dim() const noexcept override { return input_dim_; }
  void run(ConstRows rows, Outputs outputs) override;
  [[nodiscard]] bool on_device(std::size_t /*rows*/) const noexcept override {
    return provider_ != Provider::cpu;
  }
  [[nodiscard]] std::string_view backend() const noexcept override { return backend_of(provider_); }
  [[nodiscard]] Facts facts() const override;

 private:
  /// One tensor over memory of ours or the caller's. Making one costs ONNX Runtime an allocation, so it is
  /// kept and made anew only when the memory or the shape changes.
  struct BoundTensor {
    const void* data = nullptr;
    std::size_t rows = 0;
    Value value;
  };

  /// What one call needs beyond the caller's memory.
  struct Lane {
    BoundTensor input;
    BoundTensor scores;
    BoundTensor reconstructions;
    BoundTensor contributions;
    std::vector<float> reconstruction_scratch;
  };

  struct TensorType {
    std::string name;
    int element_type = 0;
    std::vector<std::int64_t> shape;  ///< -1 for a dynamic dimension.
  };

  [[nodiscard]] TensorType tensor_type(std::size_t index, bool is_input) const;
  void read_signature(const std::string& model_name);
  void bind(BoundTensor& tensor, const float* data, std::size_t rows, bool is_matrix) const;
  void run_bound(Lane& lane, ConstRows rows, Outputs outputs) const;

  std::shared_ptr<Runtime> runtime_;
  Provider provider_;
  OrtSessionHandle session_;
  std::size_t input_dim_ = 0;
  std::string input_name_;
  std::string score_name_;           ///< Empty: the graph only reconstructs.
  std::size_t score_rank_ = 1;       ///< [batch] or [batch, 1].
  std::string reconstruction_name_;  ///< Empty: the graph only scores.
  std::string contributions_name_;   ///< Empty: the graph does not say why.
  bool one_row_at_a_time_ = false;   ///< The graph was exported with a fixed batch of 1.
  int num_threads_ = 1;
  mutable Pool<Lane> lanes_;
};

}  // namespace datasentinel::onnxruntime
