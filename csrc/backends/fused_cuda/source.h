#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "backends/fused/program.h"

namespace datasentinel::fused_cuda {

/// One entry point of a generated source and how it must be launched.
struct Kernel {
  std::string name;
  int rows = 0;  ///< Rows of one block of threads at a time.
  int threads = 0;
  std::size_t shared_bytes = 0;
};

/// CUDA C++ made for one program's dimensions. `few` has the lower latency for a handful of rows, `bulk` the
/// higher throughput; they may be the same.
///
/// Both take (const float* input, long long rows, const float* constants, float* scores, float* output,
/// float* contributions, unsigned long long* bad). Of the targets any may be null, and only what is asked for
/// is computed. Scores are finite. `bad`, where not null, is lowered to the place (row * columns + column) of
/// the first input that is not finite.
struct Source {
  std::string text;
  std::vector<float> constants;
  Kernel few, bulk;
  bool in_registers = false;
};

/// Two forms. A small program is one thread a row, with every value in registers and the weights as immediate
/// operands of the instructions. Any other keeps the values of a block of rows in shared memory, column by
/// column; a warp computes some columns of a layer for all rows of the block, so that weights are read once
/// per warp and rows side by side. All arithmetic is float32.
///
/// The text also compiles as C++ where `threadIdx` and the like are provided, with LANES and THREADS defined
/// as any numbers of which THREADS is a multiple.
///
/// Throws Error{unsupported_model} when a block of rows does not fit into `shared_bytes`.
[[nodiscard]] Source generate(const fused::Program& program, std::size_t shared_bytes);

}  // namespace datasentinel::fused_cuda
