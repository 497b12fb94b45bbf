#include "backends/fused_cuda/source.h"

#include <string_view>

#include "backends/fused/frame_layout.h"
#include "backends/fused_cuda/constants.h"
#include "backends/fused_cuda/form_in_registers.h"
#include "backends/fused_cuda/form_in_shared_memory.h"
#include "backends/fused_cuda/steps.h"
#include "core/error.h"

namespace datasentinel::fused_cuda {
namespace {

using fused::Program;

constexpr int kThreads = 256;
constexpr int kRegisterThreads = 128;
constexpr int kLanes = 32;
// Beyond this a thread's values spill, and the code of unrolled layers outgrows the instruction cache.
constexpr std::size_t kMaxRegisterColumns = 96;
constexpr std::size_t kMaxRegisterWeights = 1536;

std::string signature(const std::string& name, const std::string& threads) {
  return "extern \"C\" __global__ void __launch_bounds__(" + threads + ") " + name +
         "(const float* __restrict__ input, long long rows, const float* __restrict__ constants,\n"
         "    float* __restrict__ scores, float* __restrict__ output, float* __restrict__ contributions,\n"
         "    unsigned long long* __restrict__ bad) {\n";
}

std::size_t width_of(const Program& program, int value) {
  return program.widths[static_cast<std::size_t>(value)];
}

/// Scores are always finite, as the core's are: one that overflowed stays above every threshold.
std::string written(std::string_view target, const std::string& value) {
  return target == "scores" ? "made_finite(" + value + ")" : value;
}

Source in_registers(const Program& program) {
  InRegisters form;
  const std::string steps = all_steps(program, form);
  const std::string columns = text_of(width_of(program, program.input));

  std::string body;
  for (std::size_t value = 0; value < program.widths.size(); ++value) {
    body += "    float v" + text_of(value) + "[" + text_of(program.widths[value]) + "];\n";
  }
  const std::string input = "v" + std::to_string(program.input);
  if (width_of(program, program.input) % 4 == 0) {
    body += "    #pragma unroll\n    for (int q = 0; q < " + columns +
            " / 4; ++q) {\n"
            "      const float4 x = reinterpret_cast<const float4*>(input + row * " +
            columns + ")[q];\n      " + input + "[4 * q] = x.x; " + input + "[4 * q + 1] = x.y; " + input +
            "[4 * q + 2] = x.z; " + input + "[4 * q + 3] = x.w;\n    }\n";
  } else {
    body += unrolled(width_of(program, program.input), input + "[c] = input[row * " + columns + " + c];");
  }
  body +=
      "    if (bad != nullptr) {\n" +
      unrolled(width_of(program, program.input), "check(" + input + "[c], row * " + columns + " + c, bad);") +
      "    }\n" + steps;
  const auto write = [&](const char* target, int value) {
    if (value < 0) return;
    const std::string width = text_of(width_of(program, value));
    body += "    if (" + std::string(target) + " != nullptr) {\n" +
            unrolled(width_of(program, value), std::string(target) + "[row * " + width +
                                                   " + c] = " + written(target, form.at(value, "c")) + ";") +
            "    }\n";
  };
  write("scores", program.score);
  write("output", program.output);
  write("contributions", program.contributions);

  Source source;
  source.in_registers = true;
  source.few = source.bulk = {.name = "score_rows", .rows = kRegisterThreads, .threads = kRegisterThreads};
  source.constants.assign(4, 0.0F);
  source.text = std::string(kPrelude) + "#ifndef THREADS\n#define THREADS " +
                std::to_string(kRegisterThreads) + "\n#endif\n\n" + signature("score_rows", "THREADS") +
                form.declarations() +
                "  (void)constants; (void)output; (void)contributions;\n"
                "  for (long long row = blockIdx.x * (long long)THREADS + threadIdx.x; row < rows;\n"
                "       row += gridDim.x * (long long)THREADS) {\n" +
                body + "  }\n}\n";
  return source;
}

std::string shared_kernel(const Program& program, const fused::FrameLayout& layout, Constants& constants,
                          const Kernel& kernel, std::size_t group) {
  InSharedMemory form(layout, constants, group);
  const auto offset = [&](int value) {
    return std::to_string(layout.offsets[static_cast<std::size_t>(value)]);
  };
  const std::string columns = text_of(width_of(program, program.input));
  std::string text = "#define ROWS " + std::to_string(kernel.rows) + "\n#define PITCH (ROWS + 1)\n" +
                     signature(kernel.name, "THREADS") +
                     "  EXTERN_SHARED(frame);\n"
                     "  for (long long first = blockIdx.x * (long long)ROWS; first < rows;\n"
                     "       first += gridDim.x * (long long)ROWS) {\n"
                     "    const int count = rows - first < ROWS ? (int)(rows - first) : ROWS;\n"
                     "    for (int i = threadIdx.x; i < " +
                     columns +
                     " * ROWS; i += THREADS) {\n"
                     "      const int c = i % " +
                     columns + ", r = i / " + columns +
                     ";\n"
                     "      const float x = r < count ? input[first * " +
                     columns +
                     " + i] : 0.0f;\n"
                     "      if (bad != nullptr) check(x, first * " +
                     columns +
                     " + i, bad);\n"
                     "      frame[(" +
                     offset(program.input) + " + c) * PITCH + r] = x;\n    }\n    __syncthreads();\n";
  text += all_steps(program, form);
  const auto write = [&](const char* target, int value) {
    if (value < 0) return;
    const std::string width = text_of(width_of(program, value));
    text +=
        "    if (" + std::string(target) + " != nullptr) {\n      for (int i = threadIdx.x; i < count * " +
        width + "; i += THREADS) " + target + "[first * " + width + " + i] = " +
        written(target, "frame[(" + offset(value) + " + i % " + width + ") * PITCH + i / " + width + "]") +
        ";\n    }\n";
  };
  write("scores", program.score);
  write("output", program.output);
  write("contributions", program.contributions);
  // The next rows may not overwrite what another thread still writes out.
  return text + "    __syncthreads();\n  }\n}\n#undef ROWS\n#undef PITCH\n\n";
}

Kernel kernel_of(const char* name, int rows, const fused::FrameLayout& layout) {
  return {.name = name,
          .rows = rows,
          .threads = kThreads,
          .shared_bytes =
              static_cast<std::size_t>(layout.columns) * static_cast<std::size_t>(rows + 1) * sizeof(float)};
}

Source in_shared_memory(const Program& program, std::size_t shared_bytes) {
  const fused::FrameLayout layout = fused::lay_out(program);
  Source source;
  source.few = kernel_of("score_few_rows", kLanes, layout);
  if (source.few.shared_bytes > shared_bytes) {
    throw Error(ErrorCode::unsupported_model, "its layers are too wide: " + std::to_string(kLanes) +
                                                  " rows need " + std::to_string(source.few.shared_bytes) +
                                                  " bytes of shared memory, the device offers " +
                                                  std::to_string(shared_bytes) + " to a block");
  }
  int rows = 4 * kLanes;
  while (kernel_of("", rows, layout).shared_bytes > shared_bytes) rows /= 2;
  source.bulk = kernel_of("score_rows", rows, layout);
  Constants constants;
  source.text = std::string(kPrelude) + "#ifndef LANES\n#define LANES " + std::to_string(kLanes) +
                "\n#endif\n#ifndef THREADS\n#define THREADS " + std::to_string(kThreads) + "\n#endif\n\n" +
                shared_kernel(program, layout, constants, source.few, 4) +
                shared_kernel(program, layout, constants, source.bulk, 8);
  source.constants = constants.take();
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

Source generate(const Program& program, std::size_t shared_bytes) {
  return fits_registers(program) ? in_registers(program) : in_shared_memory(program, shared_bytes);
}

}  // namespace datasentinel::fused_cuda
