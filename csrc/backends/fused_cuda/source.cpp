#include "backends/fused_cuda/source.h"

#include <algorithm>
#include <utility>

#include "backends/fused/frame_layout.h"
#include "backends/fused/takers.h"
#include "backends/fused_cuda/constants.h"
#include "backends/fused_cuda/form_in_registers.h"
#include "backends/fused_cuda/form_in_shared_memory.h"
#include "backends/fused_cuda/fragments_source.h"
#include "backends/fused_cuda/kernel_text.h"
#include "backends/fused_cuda/steps.h"
#include "backends/fused_cuda/tensor_cores.h"
#include "backends/fused_cuda/text.h"
#include "core/error.h"

namespace datasentinel::fused_cuda {

std::string signature(const std::string& name, int threads, int at_a_time, int blocks) {
  return fill(R"(extern "C" __global__ void @cluster@__launch_bounds__(@threads@, @at_a_time@) @name@(
    const float* __restrict__ input, long long rows, const float* __restrict__ constants,
    float* __restrict__ scores, float* __restrict__ output, float* __restrict__ contributions,
    unsigned long long* __restrict__ bad, float highest_normal, unsigned* __restrict__ anomalies) {
  unsigned above = 0;
)",
              {{"cluster", blocks > 1 ? "__cluster_dims__(" + std::to_string(blocks) + ") " : ""},
               {"threads", std::to_string(threads)},
               {"at_a_time", std::to_string(at_a_time)},
               {"name", name}});
}

fused::Program score_of(fused::Program program) {
  program.instructions.resize(program.score_instructions);
  program.output_instructions = program.score_instructions;
  program.output = program.contributions = -1;
  return program;
}

namespace {

using fused::Program;

constexpr int kRegisterThreads = 128;
constexpr int kThreads = 256;
constexpr Blocking kFewRows{.rows = 4, .threads = 512, .few_rows = true};
// What every device with clusters can run.
constexpr Blocking kSpread{.rows = 4, .threads = 512, .few_rows = true, .blocks = 8};
constexpr std::size_t kMostArrivalBytes = 4096;
// With fewer weights, waiting for other blocks takes longer than reading them all with one.
constexpr std::size_t kLeastSpreadWeights = std::size_t{1} << 16;
// Beyond this a thread's values spill, and the code of unrolled layers outgrows the instruction cache.
constexpr std::size_t kMaxRegisterColumns = 96;
constexpr std::size_t kMaxRegisterWeights = 1536;

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
                                  stored(target, "row * " + text_of(count) + " + c", form.at(value, "c"))) +
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
  source.text = std::string(kPrelude) + fill(R"(#define THREADS @threads@LL
@signature@@declarations@  (void)constants; (void)output; (void)contributions;
  for (long long row = blockIdx.x * THREADS + threadIdx.x; row < rows; row += gridDim.x * THREADS) {
@body@  }
@tell@}
#undef THREADS
)",
                                             {{"threads", std::to_string(kernel.threads)},
                                              {"signature", signature(kernel.name, kernel.threads)},
                                              {"declarations", form.declarations()},
                                              {"body", body},
                                              {"tell", kTelling}});
  return source;
}

/// Writes the kernels of one source and collects their constants.
class SharedMemorySource {
 public:
  SharedMemorySource(std::size_t shared_bytes, Precision precision)
      : shared_bytes_(shared_bytes), precision_(precision) {}

  Kernels add(const Program& original, const std::string& name) {
    const Program program = in_order(original);
    // The same arithmetic whatever the number of rows, where it is not float32's.
    const Blocking few = precision_ == Precision::float32 ? kFewRows : in_tiles(kWarpRows, kThreads, 1);
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
    if (is_spread(program)) kernels.spread = add(program, name + "_spread", kSpread);
    return kernels;
  }

  void finish(Source& source) {
    source.text = std::string(kPrelude) + kClusterFunctions +
                  (precision_ == Precision::float32 ? "" : kTensorCoreFunctions) + text_;
    source.constants = constants_.take();
  }

 private:
  static constexpr int kWarpRows = 32;

  [[nodiscard]] Blocking in_tiles(int rows, int threads, int at_a_time) const {
    return {.rows = rows, .threads = threads, .precision = precision_, .at_a_time = at_a_time};
  }

  [[nodiscard]] static std::size_t bytes_of(const Program& program, const Blocking& blocking) {
    const Program cut = cut_into_parts(program, blocking);
    return shared_floats(cut, layout_of(cut, blocking), blocking) * sizeof(float);
  }

  /// What was fastest on an H100, of what fits: blocks that work while others wait; for float32, rather few
  /// warps with large tiles.
  [[nodiscard]] Blocking bulk_of(const Program& program, const Blocking& few) const {
    const std::vector<Blocking> choices =
        precision_ == Precision::float32
            ? std::vector{in_tiles(64, 128, 4), in_tiles(64, 256, 2), in_tiles(32, 256, 2),
                          in_tiles(32, 256, 1)}
            : std::vector{in_tiles(128, 256, 2), in_tiles(64, 256, 2), in_tiles(32, 256, 2),
                          in_tiles(128, 512, 1), in_tiles(64, 512, 1), in_tiles(32, 512, 1)};
    const auto best = std::ranges::find_if(choices, [&](const Blocking& choice) {
      return static_cast<std::size_t>(choice.at_a_time) * bytes_of(program, choice) <= shared_bytes_;
    });
    return best == choices.end() ? few : *best;
  }

  [[nodiscard]] bool is_spread(const Program& program) const {
    std::size_t weights = 0;
    for (const fused::Instruction& step : program.instructions) weights += step.dense.weights.size();
    return precision_ == Precision::float32 && weights >= kLeastSpreadWeights &&
           bytes_of(program, kSpread) + kMostArrivalBytes <= shared_bytes_;
  }

  Kernel add(const Program& whole, const std::string& name, const Blocking& blocking) {
    const Program program = cut_into_parts(whole, blocking);
    const fused::FrameLayout layout = layout_of(program, blocking);
    InSharedMemory form(program, layout, blocking, constants_);
    const auto offset = [&](int value) {
      return std::to_string(layout.offsets[static_cast<std::size_t>(value)]);
    };
    std::string writes;
    const auto write = [&](const std::string& target, int value) {
      if (value < 0) return;
      const std::string width = text_of(width_of(program, value));
      writes += fill(R"(    if (@target@ != nullptr) {
      for (int i = THREADS * RANK + THREAD; i < count * @width@; i += BLOCKS * THREADS) {
        @store@
      }
    }
)",
                     {{"target", target},
                      {"width", width},
                      {"store", stored(target, "first * " + width + " + i",
                                       fill("frame[(@offset@ + i % @width@) * PITCH + i / @width@]",
                                            {{"offset", offset(value)}, {"width", width}}))}});
    };
    write("scores", program.score);
    write("output", program.output);
    write("contributions", program.contributions);
    const bool is_cluster = blocking.blocks > 1;
    const std::string steps = all_steps(program, form);
    std::string expected;
    for (std::size_t i = 0; i < form.arrivals().size(); ++i) {
      expected += "    expect(arrivals + " + text_of(i) + ", " + text_of(form.arrivals()[i]) + ");\n";
    }
    const auto sharers = static_cast<std::size_t>(std::max(blocking.threads / 8 / blocking.rows, 1));
    const std::size_t arrival_floats = (form.arrivals().size() + 1) / 2 * 4;
    text_ += fill(
        R"(@open@#define ROWS @rows@
#define THREADS @threads@
#define THREAD thread
#define BLOCKS @blocks@
#define RANK ((int)blockIdx.x % BLOCKS)
#define WARP (THREAD / 32 * BLOCKS + RANK)
#define LANE (THREAD % 32)
#define PITCH @pitch@
@signature@  EXTERN_SHARED(shared);
  float* const frame = shared + @arrival_floats@;
  float* const scratch = frame + @frame_columns@ * PITCH;
  (void)scratch; (void)output; (void)contributions;
@start@  for (long long first = blockIdx.x / BLOCKS * (long long)ROWS; first < rows;
       first += gridDim.x / BLOCKS * (long long)ROWS) {
    const int count = rows - first < ROWS ? (int)(rows - first) : ROWS;
    const int thread = made_anew((int)threadIdx.x);
    // Lanes have 8 columns of 4 rows, so that what they store lies in different banks.
    for (int quad = THREAD / 32 % (ROWS / 4); quad < ROWS / 4; quad += THREADS / 32) {
      const int r = 4 * quad + LANE / 8;
      const float* const from = input + (first + r) * @columns@ + LANE % 8;
      #pragma unroll 8
      for (int part = @first_part@; part < (@columns@ + 7) / 8; part += @parts@) {
        const int c = 8 * part + LANE % 8;
        if (@columns@ % 8 != 0 && c >= @columns@) continue;
        const float x = r < count ? from[8 * part] : 0.0f;
        if (bad != nullptr) check(x, (first + r) * @columns@ + c, bad);
        frame[(@input@ + c) * PITCH + r] = x;
      }
    }
@barrier@@steps@@writes@    // The next rows may not overwrite what another thread still writes out.
@barrier@  }
@tell@}
#undef ROWS
#undef THREADS
#undef THREAD
#undef BLOCKS
#undef RANK
#undef WARP
#undef LANE
#undef PITCH
@close@
)",
        {{"open", is_cluster ? "#ifdef HAS_CLUSTERS\n" : ""},
         {"close", is_cluster ? "#endif\n" : ""},
         {"rows", std::to_string(blocking.rows)},
         {"threads", std::to_string(blocking.threads)},
         {"blocks", std::to_string(blocking.blocks)},
         {"pitch", std::to_string(blocking.pitch())},
         {"signature", signature(name, blocking.threads, blocking.at_a_time, blocking.blocks)},
         {"arrival_floats", text_of(arrival_floats)},
         // Nothing may be sent to a block that has not begun. A cluster has one group of rows.
         {"start",
          is_cluster
              ? "  unsigned long long* const arrivals = reinterpret_cast<unsigned long long*>(shared);\n"
                "  if (threadIdx.x == 0) {\n" +
                    expected + "  }\n  meet_cluster();\n"
              : ""},
         {"input", offset(program.input)},
         // More warps than quads of rows take the columns in parts.
         {"first_part", sharers > 1 ? "THREAD / 32 / (ROWS / 4)" : "0"},
         {"parts", text_of(sharers)},
         {"barrier", form.barrier()},
         {"frame_columns", std::to_string(layout.columns)},
         {"columns", text_of(width_of(program, program.input))},
         {"steps", steps},
         {"writes", writes},
         {"tell", kTelling}});
    return {.name = name,
            .rows = blocking.rows,
            .threads = blocking.threads,
            .shared_bytes = (arrival_floats + shared_floats(program, layout, blocking)) * sizeof(float),
            .blocks = blocking.blocks};
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
  source.all = has_more_than_scores(program) ? text.add(program, "all") : source.scores_only;
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

/// What it is part of, if no kernel is generated for it.
const char* name_of_unsupported(const fused::Instruction& step) {
  constexpr const char* kSequences = "layers over sequences (convolutions, recurrent layers)";
  switch (step.op) {
    case fused::Op::trees: return "decision trees";
    case fused::Op::distances: return "support vector machines";
    case fused::Op::dense: return step.dense.windows > 1 ? kSequences : nullptr;
    case fused::Op::gather:
      return std::ranges::any_of(step.indices, [](int i) { return i < 0; }) ? kSequences : nullptr;
    default: return nullptr;
  }
}

void refuse_what_has_no_kernel(const Program& program) {
  if (program.state >= 0) {
    throw Error(ErrorCode::unsupported_model, "the fused-cuda backend runs no models with memory");
  }
  for (const fused::Instruction& step : program.instructions) {
    if (const char* name = name_of_unsupported(step)) {
      throw Error(ErrorCode::unsupported_model, std::string("the fused-cuda backend runs no ") + name);
    }
  }
}

Source counted(Source source, const Program& program, Precision precision) {
  source.precision = precision;
  const std::vector<bool> low = layers_in(precision, program);
  for (const fused::Instruction& step : program.instructions) {
    if (step.op != fused::Op::dense) continue;
    ++source.layers;
    if (!source.in_registers && low[static_cast<std::size_t>(step.out)]) ++source.low_layers;
  }
  return source;
}

}  // namespace

Source generate(const Program& program, std::size_t shared_bytes, Precision precision) {
  refuse_what_has_no_kernel(program);
  if (fits_registers(program)) return counted(in_registers(program), program, precision);
  if (auto source = source_in_fragments(program, shared_bytes, precision, TensorCores::mma)) {
    return counted(*std::move(source), program, precision);
  }
  return counted(in_shared_memory(program, shared_bytes, precision), program, precision);
}

std::string target_of(const Source& source, int architecture) {
  return std::to_string(architecture) + (source.instructions == TensorCores::wgmma ? "a" : "");
}

std::optional<Source> generate_wgmma(const Program& program, std::size_t shared_bytes, Precision precision) {
  refuse_what_has_no_kernel(program);
  if (fits_registers(program)) return std::nullopt;
  auto source = source_in_fragments(program, shared_bytes, precision, TensorCores::wgmma);
  if (!source) return std::nullopt;
  return counted(*std::move(source), program, precision);
}

}  // namespace datasentinel::fused_cuda
