#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "backends/fused/frame_layout.h"
#include "backends/fused_cuda/constants.h"
#include "backends/fused_cuda/form.h"
#include "backends/fused_cuda/precision.h"
#include "backends/fused_cuda/text.h"

namespace datasentinel::fused_cuda {

/// Columns that `dense_in_parts` has at a time.
inline constexpr std::size_t kPartColumns = 256;

/// How a block of threads works on a block of rows.
struct Blocking {
  int rows = 0;
  int threads = 0;
  /// For the least latency: as many threads as possible on one column, weights read once by the whole block.
  bool few_rows = false;
  /// So many blocks of threads, a cluster, share the rows: each has all their values, and computes some
  /// columns of every layer for all.
  int blocks = 1;
  Precision precision = Precision::float32;
  int at_a_time = 1;  ///< Blocks that a multiprocessor is to have room for.

  /// Floats of a column: a multiple of four, and none of 32 where threads write columns side by side.
  [[nodiscard]] int pitch() const noexcept { return few_rows ? rows : rows + 4; }
};

/// What a lane of a warp has of a matrix product: of four lanes' rows and eight lanes' columns.
struct Tile {
  std::size_t rows = 0;
  std::size_t columns = 0;

  [[nodiscard]] constexpr std::size_t vector() const noexcept { return columns < 4 ? columns : 4; }
  [[nodiscard]] constexpr std::size_t warp_rows() const noexcept { return 4 * rows; }
  [[nodiscard]] constexpr std::size_t warp_columns() const noexcept { return 8 * columns; }
};

/// `program` with the width of every value that is made and taken in parts, as this blocking does, cut to
/// that of a part.
[[nodiscard]] fused::Program cut_into_parts(fused::Program program, const Blocking& blocking);

/// What a block of threads needs in shared memory, in floats.
[[nodiscard]] std::size_t shared_floats(const fused::Program& program, const fused::FrameLayout& layout,
                                        const Blocking& blocking);

/// Whether all warps compute the layer at once, so that its result may lie where its inputs do.
[[nodiscard]] bool overwrites_inputs(const Blocking& blocking, const fused::Instruction& step);

/// Where values lie: a layer may take the place of its inputs. For a cluster, whose blocks write to each
/// other without waiting for readers, each value has a place of its own.
[[nodiscard]] fused::FrameLayout layout_of(const fused::Program& program, const Blocking& blocking);

/// By value: whether it is a layer that `precision` applies to.
[[nodiscard]] std::vector<bool> layers_in(Precision precision, const fused::Program& program);

/// One block of threads, or a cluster, for a block of rows: values are columns of a frame, weights in global
/// memory. The program has been cut into parts.
class InSharedMemory final : public Form {
 public:
  InSharedMemory(const fused::Program& program, const fused::FrameLayout& layout, const Blocking& blocking,
                 Constants& constants);

  [[nodiscard]] std::string at(int value, const std::string& column) const override;
  [[nodiscard]] Slots slots(int value) const override;
  [[nodiscard]] std::string constant(const std::vector<double>& values, const std::string& column) override;
  [[nodiscard]] std::string constant(const std::vector<int>& values, const std::string& column) override;
  [[nodiscard]] std::string each(std::size_t width, const std::string& body) const override;
  [[nodiscard]] Pieces reduce(const Reduction& reduction) const override;
  [[nodiscard]] Pieces dense(const fused::Instruction& step) override;
  [[nodiscard]] bool in_parts(const fused::Instruction& step) const override;
  [[nodiscard]] Pieces dense_in_parts(const fused::Instruction& step, const Correction& correction,
                                      const std::vector<Reduction>& reductions) override;
  [[nodiscard]] std::string barrier() const override { return "    __syncthreads();\n"; }
  /// Bytes of each layer that a cluster computes.
  [[nodiscard]] const std::vector<std::size_t>& arrivals() const noexcept { return arrivals_; }

 private:
  [[nodiscard]] Pieces dense_of_few_rows(const fused::Instruction& step);
  [[nodiscard]] Pieces dense_over_cluster(const fused::Instruction& step);
  [[nodiscard]] Pieces dense_on_tensor_cores(const fused::Instruction& step);
  /// The columns from `first` (an expression, of which `count` at most) of a layer, written from column 0 on.
  [[nodiscard]] Pieces dense_in_tiles(const fused::Instruction& step, const std::string& first,
                                      std::size_t count);
  /// The lists that all threads of a row have in `scratch`, behind `before` others, made one.
  [[nodiscard]] std::string merged(const Reduction& reduction, std::size_t before) const;
  [[nodiscard]] std::string offset(int value) const;
  /// What every layer's text has in it, and `more`.
  [[nodiscard]] Words words_of(const fused::Instruction& step, Words more) const;
  [[nodiscard]] std::size_t width(int value) const;
  [[nodiscard]] Slots scratch() const noexcept { return {layout_.columns, layout_.columns + 1}; }

  const fused::Program& program_;
  const fused::FrameLayout& layout_;
  const Blocking blocking_;
  const std::vector<bool> low_;  ///< By value: whether tensor cores compute it.
  std::vector<bool> in_parts_;   ///< By value: whether only some columns of it are there, from `first` on.
  Constants& constants_;
  std::vector<std::size_t> arrivals_;
};

}  // namespace datasentinel::fused_cuda
