#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <vector>

#include "backends/fused/floats.h"
#include "backends/fused/kernel_api.h"
#include "backends/fused/packed_trees.h"
#include "backends/fused/program.h"

namespace datasentinel::fused {

/// A program in the form the kernels of one instruction set run: weights packed in float32, every value given
/// its place in the frame. Immutable, so any number of threads may run it.
class PackedProgram {
 public:
  /// `words` multiplies the program's layers in words, and may be null where there are none. Throws
  /// Error{unsupported_model} when a folded constant leaves the range of float32.
  PackedProgram(const Program& program, const Geometry& geometry, const WordKernels* words);

  [[nodiscard]] const ProgramView& view() const noexcept { return view_; }
  [[nodiscard]] std::size_t constant_bytes() const noexcept { return constant_bytes_; }
  /// Rows that are cheapest one by one (run_few), and rows of the largest block (run_block).
  [[nodiscard]] std::size_t few_rows() const noexcept { return few_rows_; }
  [[nodiscard]] std::size_t block_rows() const noexcept { return block_rows_; }
  /// Floats of a frame for either.
  [[nodiscard]] std::size_t frame_floats() const noexcept {
    return static_cast<std::size_t>(view_.frame_columns) * std::max(few_rows_, block_rows_);
  }
  /// Layers, and those of them in words.
  [[nodiscard]] std::size_t layers() const noexcept { return layers_; }
  [[nodiscard]] std::size_t word_layers() const noexcept { return word_layers_; }
  /// Multiply-adds that one row costs in layers and distances, and levels of trees that it goes down.
  [[nodiscard]] std::size_t multiply_adds() const noexcept { return multiply_adds_; }
  [[nodiscard]] std::size_t tree_levels() const noexcept { return tree_levels_; }
  /// Both, in multiply-adds that take as long.
  [[nodiscard]] std::size_t work() const noexcept {
    return multiply_adds_ + kMultiplyAddsPerLevel * tree_levels_;
  }

 private:
  static constexpr std::size_t kMultiplyAddsPerLevel = 32;

  std::vector<Step> steps_;
  std::vector<std::vector<int>> indices_;
  std::vector<std::unique_ptr<PackedTrees>> trees_;
  AlignedFloats constants_;
  ProgramView view_;
  std::size_t constant_bytes_ = 0;
  std::size_t few_rows_ = 0;
  std::size_t block_rows_ = 0;
  std::size_t layers_ = 0;
  std::size_t word_layers_ = 0;
  std::size_t multiply_adds_ = 0;
  std::size_t tree_levels_ = 0;
};

}  // namespace datasentinel::fused
