#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "backends/fused/program.h"
#include "backends/fused_cuda/precision.h"

namespace datasentinel::fused_cuda {

/// Device functions `multiply_*`, `pack_*` and `round_tf32` in PTX; elsewhere than on a GPU they are
/// provided.
extern const char* const kTensorCoreFunctions;

/// Device functions for products of a warpgroup, whose second operand lies in shared memory. PTX has them for
/// sm_90a only.
extern const char* const kWarpgroupFunctions;

/// The function `multiply_group_*<columns, steps>`, which adds the product of 64 rows and a matrix of as many
/// columns (a multiple of 8, up to 256) to the sums, in `steps` multiplications.
[[nodiscard]] std::string warpgroup_product(Precision precision, std::size_t columns, std::size_t steps);

/// A layer's weights in the order in which the lanes of a warp hand them to the tensor cores.
///
/// Inputs are taken 32 at a time (a chunk), columns eight at a time (a group). Of a chunk, lane 4 g + t holds
/// the weights of inputs 2 t, 2 t + 1, 2 t + 8, 2 t + 9 and so on for column g, the columns of which a lane
/// has the sums of a layer before. They are the second operands of `steps()` multiplications: two of m16n8k16
/// in 16 bits, four of m16n8k8 in tf32, to whose sums the order of the inputs makes no difference. Whatever
/// is beyond the layer is 0.
class Fragments {
 public:
  Fragments(Precision precision, const fused::Dense& layer) : precision_(precision), layer_(layer) {}

  [[nodiscard]] std::size_t inputs() const noexcept { return layer_.inputs; }
  [[nodiscard]] std::size_t chunks() const noexcept { return (layer_.inputs + 31) / 32; }
  [[nodiscard]] std::size_t column_groups() const noexcept { return (layer_.outputs + 7) / 8; }
  [[nodiscard]] std::size_t steps() const noexcept { return precision_ == Precision::tf32 ? 4 : 2; }
  /// Multiplications that the inputs need.
  [[nodiscard]] std::size_t steps_in_all() const noexcept {
    const std::size_t step_inputs = 32 / steps();
    return (layer_.inputs + step_inputs - 1) / step_inputs;
  }
  /// [group][chunk][part of 16 bytes][lane][4], as bits.
  [[nodiscard]] std::vector<float> packed() const;
  /// The same for a warpgroup, `groups` groups at a time: for each multiplication the core matrices of 8
  /// columns x 16 bytes, the two with its inputs side by side.
  [[nodiscard]] std::vector<float> packed_for_warpgroup(std::size_t groups) const;
  /// Statements that make the first operands a[m][step] out of x[half][input].
  [[nodiscard]] std::string pack_text() const;
  /// Statements that load b[step] for group `first_group + n` and `chunk` from the lane's place in `w`.
  [[nodiscard]] std::string load_text() const;

 private:
  [[nodiscard]] float weight(std::size_t input, std::size_t output) const;
  /// The weight of an input, or in 16 bits of that and the next, as bits.
  [[nodiscard]] float word(std::size_t input, std::size_t output) const;

  Precision precision_;
  const fused::Dense& layer_;
};

}  // namespace datasentinel::fused_cuda
