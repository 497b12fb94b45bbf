#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "backends/onnxruntime/memory.h"
#include "backends/onnxruntime/runtime.h"
#include "backends/onnxruntime/signature.h"
#include "backends/onnxruntime/worker.h"
#include "core/pool.h"
#include "core/tensor.h"

namespace datasentinel::onnxruntime {

/// Runs a session by IO binding, in memory that stays where it is: for each batch size that is a power of two
/// there are tensors and one binding, made when that size is first met, and a batch is padded to the next
/// such size. More than `max_rows` rows go in several batches. Thread-safe; must not outlive the session.
class BoundModel {
 public:
  enum class Callers {
    concurrent,  ///< Each has tensors of its own.
    /// One thread runs everything, each batch size under a graph id of its own: what CUDA graphs need, which
    /// ONNX Runtime keeps for the thread and the addresses that they were captured with.
    one_after_the_other,
  };

  BoundModel(std::shared_ptr<Runtime> runtime, OrtSession* session, const Signature& signature,
             Provider provider, std::size_t max_rows, Callers callers);

  /// With callers one after the other, makes every batch size and runs it, which is when ONNX Runtime
  /// captures its graph. Nobody may run meanwhile.
  void prepare();

  void run(ConstRows rows, const Outputs& outputs);

  [[nodiscard]] std::size_t max_rows() const noexcept { return max_rows_; }

 private:
  struct Bucket {
    std::size_t rows = 0;
    StagedTensor input, score, reconstruction, contributions;
    IoBindingHandle binding;
    RunOptions options;
  };
  /// What one call at a time uses.
  struct Lane {
    std::vector<std::unique_ptr<Bucket>> buckets;  ///< By the binary logarithm of the number of rows.
  };

  [[nodiscard]] std::unique_ptr<Lane> make_lane() const;
  [[nodiscard]] std::unique_ptr<Bucket> make_bucket(std::size_t index) const;
  void run_bucket(const Bucket& bucket) const;
  void run_chunks(ConstRows rows, const Outputs& outputs);
  void run_chunk(Lane& lane, ConstRows rows, const Outputs& outputs) const;

  std::shared_ptr<Runtime> runtime_;
  OrtSession* session_;
  Signature signature_;
  std::size_t max_rows_;
  Callers callers_;
  Memory memory_;
  Pool<Lane> lanes_;
  std::optional<Worker> worker_;
};

}  // namespace datasentinel::onnxruntime
