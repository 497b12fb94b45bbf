#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "backends/fused/program.h"
#include "backends/fused_cuda/precision.h"

namespace datasentinel::fused_cuda {

/// One entry point of a generated source and how it must be launched.
struct Kernel {
  std::string name;
  int rows = 0;  ///< Rows of one block of threads at a time.
  int threads = 0;
  std::size_t shared_bytes = 0;
  int blocks = 1;  ///< Blocks of threads that share these rows, as a cluster.
};

/// `few` has the lower latency for a handful of rows, `bulk` the higher throughput; they may be the same.
/// `spread`, for wide layers only, has the lowest latency for a few rows; it needs clusters.
struct Kernels {
  Kernel few, bulk;
  std::optional<Kernel> spread = {};
};

/// CUDA C++ made for one program's dimensions.
///
/// All kernels take (const float* input, long long rows, const float* constants, float* scores, float*
/// output, float* contributions, unsigned long long* bad, float highest_normal, unsigned* anomalies). Of the
/// targets any may be null, and only what is asked for is computed; `scores_only` leaves the outputs but
/// `scores` alone and needs less memory for it. Scores are finite. `bad`, where not null, is lowered to the
/// place (row * columns + column) of the first input that is not finite; `anomalies`, where not null, gets
/// for each warp of the launch how many of the scores that it wrote are above `highest_normal`.
struct Source {
  std::string text;
  std::vector<float> constants;
  Kernels scores_only, all;
  bool in_registers = false;
  TensorCores instructions = TensorCores::mma;
  Precision precision = Precision::float32;  ///< As asked for.
  std::size_t layers = 0;                    ///< Matrix products of a row,
  std::size_t low_layers = 0;  ///< and those among them that the asked-for precision applies to.
};

/// Two forms. A small program is one thread a row, with every value in registers and the weights as immediate
/// operands of the instructions. Any other keeps the values of a block of rows in shared memory, column by
/// column; a warp computes some columns of a layer for all rows of the block, so that weights are read once
/// per warp and rows side by side, or, for a few rows, a thread some inputs of a column. For a few rows of
/// wide layers the blocks of a cluster share the columns: each has all values of the rows in its own shared
/// memory, and what one computes it writes to all.
///
/// In a lower `precision` wide layers run on tensor cores; sums and everything else are float32, as are
/// programs in registers.
///
/// The text also compiles as C++ where `threadIdx`, `__shfl_xor_sync` and the like are provided.
///
/// Throws Error{unsupported_model} when a block of rows does not fit into `shared_bytes`.
[[nodiscard]] Source generate(const fused::Program& program, std::size_t shared_bytes,
                              Precision precision = Precision::float32);

/// The same with the products of warpgroups, for compute capability 9.0 alone; none for a program whose
/// values and weights do not fit into a block's registers and shared memory as they want it.
[[nodiscard]] std::optional<Source> generate_wgmma(const fused::Program& program, std::size_t shared_bytes,
                                                   Precision precision);

/// The architecture that the text is compiled for, e.g. "80", on a device of this one.
[[nodiscard]] std::string target_of(const Source& source, int architecture);

}  // namespace datasentinel::fused_cuda
