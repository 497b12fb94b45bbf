#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "backends/cuda/context_loss.h"
#include "backends/cuda/driver.h"
#include "backends/tensorrt/engine.h"
#include "core/backend.h"
#include "core/pool.h"

namespace datasentinel::tensorrt {

/// An engine on one device. One lane (stream, contexts, buffers) a concurrent caller; each lane captures a
/// CUDA graph, copies included, for each batch size that is a power of two and each set of outputs, the first
/// time it meets it. Thread-safe.
class TensorRtSession final : public Session {
 public:
  TensorRtSession(std::shared_ptr<const Engine> engine, std::shared_ptr<const cuda::Driver> driver,
                  Facts build_facts);
  ~TensorRtSession() override { driver_->enter_if_possible(); }

  [[nodiscard]] std::size_t input_dim() const noexcept override { return engine_->input_dim(); }
  void run(ConstRows rows, Outputs outputs) override;
  [[nodiscard]] bool on_device(std::size_t /*rows*/) const noexcept override { return true; }
  [[nodiscard]] std::string_view backend() const noexcept override { return "tensorrt"; }
  [[nodiscard]] Facts facts() const override;

 private:
  /// A float32 matrix of the lane: page-locked on the host, and on the device.
  struct Buffer {
    std::size_t columns = 0;  ///< 0: the graph has no such output.
    cuda::PinnedMemory host;
    cuda::DeviceMemory device;
    [[nodiscard]] float* rows() const noexcept { return static_cast<float*>(host.get()); }
    [[nodiscard]] void* device_rows() const noexcept {
      return reinterpret_cast<void*>(static_cast<std::uintptr_t>(device.get()));
    }
    [[nodiscard]] std::size_t bytes(std::size_t rows) const noexcept {
      return rows * columns * sizeof(float);
    }
  };

  /// Bits of a set of outputs.
  enum Wanted : unsigned { kScore = 1, kReconstruction = 2, kContributions = 4 };

  /// One batch size: a context of its own, since a graph is only valid while its context does not change.
  struct Bucket {
    abi::Owned<abi::VExecutionContext> context;
    std::array<cuda::GraphExecutable, 8> graphs;  ///< By the set of outputs that is copied back.
    bool capturable = true;
  };

  struct Lane {
    // Contexts and graphs go before the memory and the stream they use.
    cuda::Stream stream;
    cuda::DeviceMemory scratch;
    Buffer input, score, reconstruction, contributions;
    std::vector<Bucket> buckets;  ///< By the binary logarithm of the number of rows.
  };

  [[nodiscard]] std::unique_ptr<Lane> make_lane() const;
  Bucket& prepare(Lane& lane, std::size_t index) const;
  void enqueue(Lane& lane, Bucket& bucket, std::size_t rows, unsigned wanted) const;
  void capture(Lane& lane, Bucket& bucket, std::size_t rows, unsigned wanted) const;
  void run_chunk(Lane& lane, ConstRows rows, Outputs outputs) const;

  // Sessions run in any thread: the engine goes while the driver's context is that thread's.
  std::shared_ptr<const cuda::Driver> driver_;
  std::shared_ptr<const Engine> engine_;
  Facts build_facts_;
  cuda::ContextLoss loss_{"tensorrt"};
  Pool<Lane> lanes_;
};

}  // namespace datasentinel::tensorrt
