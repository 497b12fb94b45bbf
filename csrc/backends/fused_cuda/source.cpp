#include "backends/fused_cuda/source.h"

#include <algorithm>
#include <string_view>

#include "backends/fused/frame_layout.h"
#include "backends/fused_cuda/constants.h"
#include "backends/fused_cuda/form_in_registers.h"
#include "backends/fused_cuda/form_in_shared_memory.h"
#include "backends/fused_cuda/steps.h"
#include "backends/fused_cuda/tensor_cores.h"
#include "backends/fused_cuda/text.h"
#include "core/error.h"

namespace datasentinel::fused_cuda {
namespace {

using fused::Program;

constexpr int kRegisterThreads = 128;
constexpr int kThreads = 256;
constexpr Blocking kFewRows{.rows = 4, .threads = 512, .few_rows = true};
// With fewer weights, waiting for other blocks takes longer than reading them all with one.
constexpr std::size_t kLeastSpreadWeights = std::size_t{1} << 16;
// More blocks than that wait longer for each other, and fewer devices have room for them.
constexpr int kMostSpreadBlocks = 64;
// Beyond this a thread's values spill, and the code of unrolled layers outgrows the instruction cache.
constexpr std::size_t kMaxRegisterColumns = 96;
constexpr std::size_t kMaxRegisterWeights = 1536;

std::string signature(const std::string& name, int threads) {
  return fill(R"(extern "C" __global__ void __launch_bounds__(@threads@) @name@(
    const float* __restrict__ input, long long rows, const float* __restrict__ constants,
    float* __restrict__ scores, float* __restrict__ output, float* __restrict__ contributions,
    unsigned long long* __restrict__ bad, float* workspace) {
)",
              {{"threads", std::to_string(threads)}, {"name", name}});
}

std::size_t width_of(const Program& program, int value) {
  return program.widths[static_cast<std::size_t>(value)];
}

/// Scores are always finite, as the core's are: one that overflowed stays above every threshold.
std::string written(std::string_view target, const std::string& value) {
  return target == "scores" ? "made_finite(" + value + ")" : value;
}

Source in_registers(const Program& program) {
  InRegisters form(program);
  const std::string steps = all_steps(program, form);
  const std::size_t width = width_of(program, program.input);
  const std::string columns = text_of(width);
  const std::string input = "v" + std::to_string(program.input);

  std::string body;
  for (std::size_t value = 0; value < program.widths.size(); ++value) {
    body += "    float v" + text_of(value) + "[" + text_of(program.widths[value]) + "];\n";
  }
  if (width % 4 == 0) {
    body += InRegisters::unrolled(
        "q", width / 4,
        fill("const float4 x = reinterpret_cast<const float4*>(input + row * @columns@)[q]; "
             "@v@[4 * q] = x.x; @v@[4 * q + 1] = x.y; @v@[4 * q + 2] = x.z; @v@[4 * q + 3] = x.w;",
             {{"columns", columns}, {"v", input}}));
  } else {
    body += InRegisters::unrolled("c", width, input + "[c] = input[row * " + columns + " + c];");
  }
  body += "    if (bad != nullptr) {\n" +
          InRegisters::unrolled("c", width, "check(" + input + "[c], row * " + columns + " + c, bad);") +
          "    }\n" + steps;
  const auto write = [&](const std::string& target, int value) {
    if (value < 0) return;
    const std::size_t count = width_of(program, value);
    body += "    if (" + target + " != nullptr) {\n" +
            InRegisters::unrolled("c", count,
                                  target + "[row * " + text_of(count) +
                                      " + c] = " + written(target, form.at(value, "c")) + ";") +
            "    }\n";
  };
  write("scores", program.score);
  write("output", program.output);
  write("contributions", program.contributions);

  Source source;
  source.in_registers = true;
  const Kernel kernel{.name = "score_rows", .rows = kRegisterThreads, .threads = kRegisterThreads};
  source.scores_only = source.all = {.few = kernel, .bulk = kernel};
  source.constants.assign(4, 0.0F);
  source.text = std::string(kPrelude) + signature(kernel.name, kernel.threads) + form.declarations() +
                fill(R"(  (void)constants; (void)output; (void)contributions; (void)workspace;
  for (long long row = blockIdx.x * @threads@LL + threadIdx.x; row < rows; row += gridDim.x * @threads@LL) {
@body@  }
}
)",
                     {{"threads", std::to_string(kernel.threads)}, {"body", body}});
  return source;
}

// A workspace begins with a count of the blocks that have arrived, as long as the frame's alignment.
constexpr std::size_t kArrivedFloats = 4;
constexpr const char* kFrameOfAllBlocks =
    R"(  unsigned* const arrived = reinterpret_cast<unsigned*>(workspace);
  float* const frame = workspace + 4;
)";

/// The first steps of a program: those of the score.
Program score_of(Program program) {
  program.instructions.resize(program.score_instructions);
  program.output_instructions = program.score_instructions;
  program.output = program.contributions = -1;
  return program;
}

/// Writes the kernels of one source and collects their constants.
class SharedMemorySource {
 public:
  SharedMemorySource(std::size_t shared_bytes, Precision precision)
      : shared_bytes_(shared_bytes), precision_(precision) {}

  Kernels add(const Program& program, const std::string& name) {
    // The same arithmetic whatever the number of rows, where it is not float32's.
    const Blocking few = precision_ == Precision::float32 ? kFewRows : in_tiles(kWarpRows);
    const std::size_t least = bytes_of(program, few);
    if (least > shared_bytes_) {
      throw Error(ErrorCode::unsupported_model, "its layers are too wide: " + std::to_string(few.rows) +
                                                    " rows need " + std::to_string(least) +
                                                    " bytes of shared memory, the device offers " +
                                                    std::to_string(shared_bytes_) + " to a block");
    }
    const Kernel few_rows = add(program, name + "_few_rows", few);
    const Blocking bulk = bulk_of(program, few);
    const bool is_same = bulk.rows == few.rows && bulk.threads == few.threads;
    Kernels kernels{.few = few_rows, .bulk = is_same ? few_rows : add(program, name + "_rows", bulk)};
    if (const auto spread = spread_of(program)) kernels.spread = add(program, name + "_spread", *spread);
    return kernels;
  }

  void finish(Source& source) {
    source.text = std::string(kPrelude) + kBlocksFunctions +
                  (precision_ == Precision::float32 ? "" : kTensorCoreFunctions) + text_;
    source.constants = constants_.take();
  }

 private:
  static constexpr int kWarpRows = 32;

  [[nodiscard]] Blocking in_tiles(int rows, int threads = kThreads) const {
    return {.rows = rows, .threads = threads, .few_rows = false, .precision = precision_};
  }

  [[nodiscard]] static std::size_t bytes_of(const Program& program, const Blocking& blocking) {
    const Program cut = cut_into_parts(program, blocking);
    return shared_floats(cut, fused::lay_out(cut, true), blocking) * sizeof(float);
  }

  /// As many rows as leave room for a second block, which works while the first one waits; else as many as
  /// fit, with more threads to hide each other's waiting.
  [[nodiscard]] Blocking bulk_of(const Program& program, const Blocking& few) const {
    for (const int blocks : {2, 1}) {
      for (int rows = 4 * kWarpRows; rows >= kWarpRows; rows /= 2) {
        const Blocking blocking = in_tiles(rows, blocks == 2 ? kThreads : 2 * kThreads);
        if (static_cast<std::size_t>(blocks) * bytes_of(program, blocking) <= shared_bytes_) return blocking;
      }
    }
    return few;
  }

  /// A warp for each column of the widest layer, as far as there may be so many.
  [[nodiscard]] std::optional<Blocking> spread_of(const Program& program) const {
    std::size_t weights = 0;
    std::size_t widest = 0;
    for (const fused::Instruction& step : program.instructions) {
      weights += step.dense.weights.size();
      widest = std::max(widest, step.dense.outputs);
    }
    if (precision_ != Precision::float32 || weights < kLeastSpreadWeights) return std::nullopt;
    int blocks = 1;
    while (blocks < kMostSpreadBlocks && static_cast<std::size_t>(blocks * kThreads / kWarpRows) < widest) {
      blocks *= 2;
    }
    return Blocking{.rows = kFewRows.rows, .threads = kThreads, .few_rows = true, .blocks = blocks};
  }

  Kernel add(const Program& whole, const std::string& name, const Blocking& blocking) {
    const Program program = cut_into_parts(whole, blocking);
    const fused::FrameLayout layout = fused::lay_out(program, true);
    InSharedMemory form(program, layout, blocking, constants_);
    const auto offset = [&](int value) {
      return std::to_string(layout.offsets[static_cast<std::size_t>(value)]);
    };
    std::string writes;
    const auto write = [&](const std::string& target, int value) {
      if (value < 0) return;
      writes += fill(R"(    if (@target@ != nullptr) {
      for (int i = THREAD; i < count * @width@; i += THREADS) @target@[first * @width@ + i] = @value@;
    }
)",
                     {{"target", target},
                      {"width", text_of(width_of(program, value))},
                      {"value", written(target, fill("frame[(@offset@ + i % @width@) * PITCH + i / @width@]",
                                                     {{"offset", offset(value)},
                                                      {"width", text_of(width_of(program, value))}}))}});
    };
    write("scores", program.score);
    write("output", program.output);
    write("contributions", program.contributions);
    const bool is_spread = blocking.blocks > 0;
    const std::size_t floats = shared_floats(program, layout, blocking);
    text_ += fill(
        R"(#define ROWS @rows@
#define THREADS @threads@
#define THREAD @thread@
#define PITCH @pitch@
@signature@@memory@  float* const scratch = frame + @frame_columns@ * PITCH;
  (void)scratch; (void)output; (void)contributions; (void)workspace;
  for (long long first = @first@; first < rows; first += @step@) {
    const int count = rows - first < ROWS ? (int)(rows - first) : ROWS;
    for (int i = THREAD; i < @columns@ * ROWS; i += THREADS) {
      const int c = i % @columns@, r = i / @columns@;
      const float x = r < count ? input[first * @columns@ + i] : 0.0f;
      if (bad != nullptr) check(x, first * @columns@ + i, bad);
      frame[(@input@ + c) * PITCH + r] = x;
    }
@barrier@@steps@@writes@    // The next rows may not overwrite what another thread still writes out.
@barrier@  }
}
#undef ROWS
#undef THREADS
#undef THREAD
#undef PITCH

)",
        {{"rows", std::to_string(blocking.rows)},
         {"threads", std::to_string(blocking.all_threads())},
         {"thread", is_spread ? "(int)(blockIdx.x * " + std::to_string(blocking.threads) + " + threadIdx.x)"
                              : "(int)threadIdx.x"},
         {"pitch", std::to_string(blocking.pitch())},
         {"signature", signature(name, blocking.threads)},
         {"memory", is_spread ? kFrameOfAllBlocks : "  EXTERN_SHARED(frame);\n"},
         {"first", is_spread ? "0" : "blockIdx.x * (long long)ROWS"},
         {"step", is_spread ? "ROWS" : "gridDim.x * (long long)ROWS"},
         {"barrier", form.barrier()},
         {"frame_columns", std::to_string(layout.columns)},
         {"columns", text_of(width_of(program, program.input))},
         {"input", offset(program.input)},
         {"steps", all_steps(program, form)},
         {"writes", writes}});
    return {.name = name,
            .rows = blocking.rows,
            .threads = blocking.threads,
            .shared_bytes = is_spread ? 0 : floats * sizeof(float),
            .blocks = blocking.blocks,
            .workspace_floats = is_spread ? kArrivedFloats + floats : 0};
  }

  const std::size_t shared_bytes_;
  const Precision precision_;
  std::string text_;
  Constants constants_;
};

Source in_shared_memory(const Program& program, std::size_t shared_bytes, Precision precision) {
  Source source;
  SharedMemorySource text(shared_bytes, precision);
  source.scores_only = text.add(score_of(program), "score");
  source.all =
      program.output < 0 && program.contributions < 0 ? source.scores_only : text.add(program, "all");
  text.finish(source);
  return source;
}

bool fits_registers(const Program& program) {
  std::size_t columns = 0;
  for (const std::size_t width : program.widths) columns += width;
  std::size_t weights = 0;
  for (const fused::Instruction& instruction : program.instructions)
    weights += instruction.dense.weights.size();
  return columns <= kMaxRegisterColumns && weights <= kMaxRegisterWeights;
}

}  // namespace

Source generate(const Program& program, std::size_t shared_bytes, Precision precision) {
  if (program.state >= 0) {
    throw Error(ErrorCode::unsupported_model, "the fused-cuda backend runs no models with memory");
  }
  Source source =
      fits_registers(program) ? in_registers(program) : in_shared_memory(program, shared_bytes, precision);
  source.precision = precision;
  const std::vector<bool> low = layers_in(precision, program);
  for (const fused::Instruction& step : program.instructions) {
    if (step.op != fused::Op::dense) continue;
    ++source.layers;
    if (!source.in_registers && low[static_cast<std::size_t>(step.out)]) ++source.low_layers;
  }
  return source;
}

}  // namespace datasentinel::fused_cuda
