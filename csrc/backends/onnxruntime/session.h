#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backends/onnxruntime/bound_model.h"
#include "backends/onnxruntime/memory.h"
#include "backends/onnxruntime/runtime.h"
#include "backends/onnxruntime/signature.h"
#include "core/backend.h"
#include "core/pool.h"

namespace datasentinel::onnxruntime {

/// A model loaded by ONNX Runtime. Rows and results are read and written in the caller's memory, or go
/// through a BoundModel. Thread-safe.
class OnnxRuntimeSession final : public Session {
 public:
  OnnxRuntimeSession(std::shared_ptr<Runtime> runtime, const Model& model, const SessionOptions& options,
                     Provider provider);
  ~OnnxRuntimeSession() override;

  [[nodiscard]] std::size_t input_dim() const noexcept override { return signature_.input_dim; }
  void run(ConstRows rows, Outputs outputs) override { step(rows, {}, outputs); }
  [[nodiscard]] std::size_t state_dim() const noexcept override { return signature_.state_dim; }
  void step(ConstRows rows, States states, Outputs outputs) override;
  [[nodiscard]] bool on_device(std::size_t /*rows*/) const noexcept override {
    return provider_ != Provider::cpu;
  }
  [[nodiscard]] std::string_view backend() const noexcept override { return backend_of(provider_); }
  [[nodiscard]] Facts facts() const override;

 private:
  /// One tensor over memory of ours or the caller's. Making one costs ONNX Runtime an allocation, so it is
  /// kept and made anew only when the memory or the shape changes.
  struct CallersTensor {
    const void* data = nullptr;
    std::size_t rows = 0;
    Value value;
  };

  /// What one call in the caller's memory needs beyond it.
  struct Lane {
    CallersTensor input;
    CallersTensor scores;
    CallersTensor reconstructions;
    CallersTensor contributions;
    CallersTensor state;
    CallersTensor state_next;
    std::vector<float> reconstruction_scratch;
    std::vector<float> state_scratch;       ///< Of new streams: zeros.
    std::vector<float> state_next_scratch;  ///< ONNX Runtime cannot write a state where it reads it.
  };

  using Callers = BoundModel::Callers;

  void open(const Model& model, const SessionOptions& options, Callers callers);
  void open_bound(const EngineOptions& options, Callers callers);
  void close() noexcept;
  void hold(CallersTensor& tensor, const float* data, Shape shape) const;
  void run_unbound(Lane& lane, ConstRows rows, States states, const Outputs& outputs) const;

  std::shared_ptr<Runtime> runtime_;
  Provider provider_;
  OrtSessionHandle session_;
  Signature signature_;
  int num_threads_ = 1;
  std::string io_binding_ = "no";   ///< For people.
  std::string cuda_graphs_ = "no";  ///< For people.
  Pool<Lane> lanes_;
  std::unique_ptr<BoundModel> bound_;  ///< Null: in the caller's memory.
};

}  // namespace datasentinel::onnxruntime
