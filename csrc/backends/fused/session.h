#pragma once

#include <memory>

#include "backends/fused/packed_program.h"
#include "backends/fused/thread_pool.h"
#include "core/backend.h"
#include "core/pool.h"

namespace datasentinel::fused {

/// A lowered model on one instruction set, whose layers in words, if there are any, `words` multiplies.
/// Thread-safe.
class FusedSession final : public Session {
 public:
  FusedSession(const Program& program, const Kernels& kernels, const WordKernels* words, int num_threads);

  [[nodiscard]] std::size_t input_dim() const noexcept override { return input_dim_; }
  void run(ConstRows rows, Outputs outputs) override { step(rows, {}, outputs); }
  [[nodiscard]] std::size_t state_dim() const noexcept override { return state_dim_; }
  void step(ConstRows rows, States states, Outputs outputs) override;
  [[nodiscard]] std::string_view backend() const noexcept override { return "fused"; }
  [[nodiscard]] Facts facts() const override;

 private:
  void run_rows(ConstRows rows, States states, Outputs outputs);

  const Kernels& kernels_;
  PackedProgram program_;
  std::size_t input_dim_;
  std::size_t state_dim_;
  bool has_output_;
  bool has_contributions_;
  Pool<AlignedFloats> frames_;           ///< Scratch, one for each concurrent call.
  std::unique_ptr<ThreadPool> threads_;  ///< Null with one thread.
  std::size_t num_threads_;
};

}  // namespace datasentinel::fused
