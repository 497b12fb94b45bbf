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

  [[nodiscard]] std::size_t chunks() const noexcept { return (layer_.inputs + 31) / 32; }
  [[nodiscard]] std::size_t column_groups() const noexcept { return (layer_.outputs + 7) / 8; }
  [[nodiscard]] std::size_t steps() const noexcept { return precision_ == Precision::tf32 ? 4 : 2; }
  /// [group][chunk][part of 16 bytes][lane][4], as bits.
  [[nodiscard]] std::vector<float> packed() const;
  /// Statements that make the first operands a[m][step] out of x[half][input].
  [[nodiscard]] std::string pack_text() const;
  /// Statements that load b[step] for group `first_group + n` and `chunk` from the lane's place in `w`.
  [[nodiscard]] std::string load_text() const;

 private:
  [[nodiscard]] float weight(std::size_t input, std::size_t output) const;

  Precision precision_;
  const fused::Dense& layer_;
};

}  // namespace datasentinel::fused_cuda
