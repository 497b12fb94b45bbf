#include "backends/fused_cuda/source.h"

#include <algorithm>
#include <cstdio>
#include <string_view>
#include <utility>

#include "backends/fused/frame_layout.h"
#include "backends/fused/packed_program.h"
#include "backends/fused_cuda/functions.h"
#include "core/error.h"

namespace datasentinel::fused_cuda {
namespace {

using fused::Instruction;
using fused::Op;
using fused::Program;

constexpr int kThreads = 256;
constexpr int kRegisterThreads = 128;
constexpr int kLanes = 32;
// Beyond this a thread's values spill, and the code of unrolled layers outgrows the instruction cache.
constexpr std::size_t kMaxRegisterColumns = 96;
constexpr std::size_t kMaxRegisterWeights = 1536;

std::string text_of(std::size_t number) { return std::to_string(number); }

/// Collects constants in one array; every entry starts at a multiple of four floats.
class Constants {
 public:
  std::size_t add(const std::vector<double>& values) {
    const std::size_t start = begin();
    for (const double value : values) floats_.push_back(fused::to_float32(value));
    return start;
  }

  std::size_t add(const std::vector<int>& values) {
    return add(std::vector<double>(values.begin(), values.end()));
  }

  /// [group of columns][k][column of the group], columns padded with zeros.
  std::size_t add_grouped(const std::vector<double>& weights, std::size_t inputs, std::size_t outputs,
                          std::size_t group) {
    const std::size_t start = begin();
    for (std::size_t first = 0; first < outputs; first += group) {
      for (std::size_t k = 0; k < inputs; ++k) {
        for (std::size_t c = first; c < first + group; ++c) {
          floats_.push_back(c < outputs ? fused::to_float32(weights[k * outputs + c]) : 0.0F);
        }
      }
    }
    return start;
  }

  [[nodiscard]] std::vector<float> take() {
    begin();
    return std::move(floats_);
  }

 private:
  std::size_t begin() {
    while (floats_.size() % 4 != 0) floats_.push_back(0.0F);
    return floats_.size();
  }

  std::vector<float> floats_;
};

/// How the two forms write the same steps. `{}` below stands for the column.
class Form {
 public:
  Form() = default;
  Form(const Form&) = delete;
  Form& operator=(const Form&) = delete;
  virtual ~Form() = default;

  /// `value`'s column `column` (an expression), of the row at hand.
  [[nodiscard]] virtual std::string at(int value, const std::string& column) const = 0;
  /// Constant number `column` of `values`.
  [[nodiscard]] virtual std::string constant(const std::vector<double>& values,
                                             const std::string& column) = 0;
  [[nodiscard]] virtual std::string constant(const std::vector<int>& values, const std::string& column) = 0;
  /// Runs `body` for each row and each column `c` below `width`.
  [[nodiscard]] virtual std::string each(std::size_t width, const std::string& body) const = 0;
  /// Runs `body` for each row.
  [[nodiscard]] virtual std::string each_row(const std::string& body) const = 0;
  [[nodiscard]] virtual std::string dense(const Instruction& step) = 0;
  /// Runs `body` for each column `c` below `width`, of the row at hand.
  [[nodiscard]] virtual std::string columns(std::size_t width, const std::string& body) const = 0;
  /// What stands between two steps.
  [[nodiscard]] virtual std::string barrier() const = 0;
};

std::string loop(const char* pragma, std::size_t width, const std::string& body) {
  return std::string("    ") + pragma + "\n    for (int c = 0; c < " + text_of(width) + "; ++c) { " + body +
         " }\n";
}

std::string unrolled(std::size_t width, const std::string& body) {
  return loop("#pragma unroll", width, body);
}

class InRegisters final : public Form {
 public:
  [[nodiscard]] std::string at(int value, const std::string& column) const override {
    return "v" + std::to_string(value) + "[" + column + "]";
  }
  [[nodiscard]] std::string constant(const std::vector<double>& values, const std::string& column) override {
    return declare(values) + "[" + column + "]";
  }
  [[nodiscard]] std::string constant(const std::vector<int>& values, const std::string& column) override {
    return "(int)" + declare(std::vector<double>(values.begin(), values.end())) + "[" + column + "]";
  }
  [[nodiscard]] std::string each(std::size_t width, const std::string& body) const override {
    return unrolled(width, body);
  }
  [[nodiscard]] std::string each_row(const std::string& body) const override {
    return "    { " + body + " }\n";
  }
  [[nodiscard]] std::string columns(std::size_t width, const std::string& body) const override {
    return unrolled(width, body);
  }
  [[nodiscard]] std::string barrier() const override { return ""; }

  [[nodiscard]] std::string dense(const Instruction& step) override {
    const fused::Dense& layer = step.dense;
    const std::string weights = declare(layer.weights);
    const std::string start = layer.bias.empty() ? "0.0f" : declare(layer.bias) + "[c]";
    return unrolled(layer.outputs, "float sum = " + start +
                                       ";\n      #pragma unroll\n      for (int k = 0; k < " +
                                       text_of(layer.inputs) + "; ++k) sum = fmaf(" + at(step.a, "k") + ", " +
                                       weights + "[k * " + text_of(layer.outputs) + " + c], sum);\n      " +
                                       at(step.out, "c") + " = " + function_of(step.function, "sum") + ";");
  }

  /// The arrays that the steps so far name. Unrolled, their elements become immediate operands.
  [[nodiscard]] const std::string& declarations() const noexcept { return declarations_; }

 private:
  std::string declare(const std::vector<double>& values) {
    const std::string name = "k" + std::to_string(count_++);
    declarations_ += "  const float " + name + "[" + text_of(values.size()) + "] = {";
    for (const double value : values) declarations_ += literal(fused::to_float32(value)) + ",";
    declarations_ += "};\n";
    return name;
  }

  std::string declarations_;
  int count_ = 0;
};

class InSharedMemory final : public Form {
 public:
  InSharedMemory(const fused::FrameLayout& layout, Constants& constants, std::size_t group)
      : layout_(layout), constants_(constants), group_(group) {}

  [[nodiscard]] std::string at(int value, const std::string& column) const override {
    return "frame[(" + offset(value) + " + " + column + ") * PITCH + r]";
  }
  [[nodiscard]] std::string constant(const std::vector<double>& values, const std::string& column) override {
    return "constants[" + text_of(constants_.add(values)) + " + " + column + "]";
  }
  [[nodiscard]] std::string constant(const std::vector<int>& values, const std::string& column) override {
    return "(int)constants[" + text_of(constants_.add(values)) + " + " + column + "]";
  }
  [[nodiscard]] std::string each(std::size_t width, const std::string& body) const override {
    return "    for (int i = threadIdx.x; i < " + text_of(width) +
           " * ROWS; i += THREADS) { const int c = i / ROWS, r = i % ROWS; " + body + " }\n";
  }
  [[nodiscard]] std::string each_row(const std::string& body) const override {
    return "    for (int r = threadIdx.x; r < ROWS; r += THREADS) { " + body + " }\n";
  }
  [[nodiscard]] std::string columns(std::size_t width, const std::string& body) const override {
    return loop("#pragma unroll 8", width, body);
  }
  [[nodiscard]] std::string barrier() const override { return "    __syncthreads();\n"; }

  [[nodiscard]] std::string dense(const Instruction& step) override {
    const fused::Dense& layer = step.dense;
    const std::string group = text_of(group_);
    const std::string groups = text_of((layer.outputs + group_ - 1) / group_);
    const std::string inputs = text_of(layer.inputs);
    const std::string weights =
        text_of(constants_.add_grouped(layer.weights, layer.inputs, layer.outputs, group_));
    std::vector<double> bias = layer.bias.empty() ? std::vector<double>(layer.outputs, 0.0) : layer.bias;
    bias.resize((layer.outputs + group_ - 1) / group_ * group_, 0.0);
    const std::string start = text_of(constants_.add(bias));
    return "    for (int group = threadIdx.x / LANES; group < " + groups +
           "; group += THREADS / LANES) {\n"
           "      const int lane = threadIdx.x % LANES;\n"
           "      const float4* w = reinterpret_cast<const float4*>(constants + " +
           weights + " + group * " + inputs + " * " + group +
           ");\n"
           "      float sum[ROWS / LANES][" +
           group +
           "];\n"
           "      #pragma unroll\n"
           "      for (int t = 0; t < " +
           group +
           "; ++t) {\n"
           "        const float b = constants[" +
           start + " + group * " + group +
           " + t];\n"
           "        #pragma unroll\n"
           "        for (int j = 0; j < ROWS / LANES; ++j) sum[j][t] = b;\n"
           "      }\n"
           "      #pragma unroll 4\n"
           "      for (int k = 0; k < " +
           inputs +
           "; ++k) {\n"
           "        float x[ROWS / LANES];\n"
           "        #pragma unroll\n"
           "        for (int j = 0; j < ROWS / LANES; ++j)\n"
           "          x[j] = frame[(" +
           offset(step.a) +
           " + k) * PITCH + lane + LANES * j];\n"
           "        #pragma unroll\n"
           "        for (int q = 0; q < " +
           group +
           " / 4; ++q) {\n"
           "          const float4 v = w[k * (" +
           group +
           " / 4) + q];\n"
           "          #pragma unroll\n"
           "          for (int j = 0; j < ROWS / LANES; ++j) {\n"
           "            sum[j][4 * q] = fmaf(x[j], v.x, sum[j][4 * q]);\n"
           "            sum[j][4 * q + 1] = fmaf(x[j], v.y, sum[j][4 * q + 1]);\n"
           "            sum[j][4 * q + 2] = fmaf(x[j], v.z, sum[j][4 * q + 2]);\n"
           "            sum[j][4 * q + 3] = fmaf(x[j], v.w, sum[j][4 * q + 3]);\n"
           "          }\n"
           "        }\n"
           "      }\n"
           "      #pragma unroll\n"
           "      for (int t = 0; t < " +
           group +
           "; ++t) {\n"
           "        const int c = group * " +
           group +
           " + t;\n"
           "        if (c >= " +
           text_of(layer.outputs) +
           ") break;\n"
           "        #pragma unroll\n"
           "        for (int j = 0; j < ROWS / LANES; ++j)\n"
           "          frame[(" +
           offset(step.out) +
           " + c) * PITCH + lane + LANES * j] = " + function_of(step.function, "sum[j][t]") +
           ";\n"
           "      }\n"
           "    }\n";
  }

 private:
  [[nodiscard]] std::string offset(int value) const {
    return std::to_string(layout_.offsets[static_cast<std::size_t>(value)]);
  }

  const fused::FrameLayout& layout_;
  Constants& constants_;
  std::size_t group_;
};

/// Writes the steps of a program in one form.
class StepWriter {
 public:
  StepWriter(const Program& program, Form& form) : program_(program), form_(form) {}

  [[nodiscard]] std::string steps(std::size_t first, std::size_t end) {
    std::string text;
    for (std::size_t i = first; i < end; ++i) text += step(program_.instructions[i]) + form_.barrier();
    return text;
  }

 private:
  [[nodiscard]] std::size_t width(int value) const {
    return program_.widths[static_cast<std::size_t>(value)];
  }

  /// (a - center) scale + offset, in column c.
  std::string map(const Instruction& step) {
    std::string text = form_.at(step.a, "c");
    if (!step.center.empty()) text = "(" + text + " - " + form_.constant(step.center, "c") + ")";
    if (!step.scale.empty()) text = "(" + text + " * " + form_.constant(step.scale, "c") + ")";
    if (!step.offset.empty()) text = "(" + text + " + " + form_.constant(step.offset, "c") + ")";
    return text;
  }

  std::string difference(const Instruction& step) {
    std::string right = form_.at(step.b, "c");
    if (!step.scale_b.empty()) right += " * " + form_.constant(step.scale_b, "c");
    return "(" + map(step) + " - " + right + ")";
  }

  std::string assign(const Instruction& step, const std::string& expression) {
    return form_.each(width(step.out), form_.at(step.out, "c") + " = " + expression + ";");
  }

  std::string binary(const Instruction& step, std::string_view before, std::string_view between,
                     std::string_view after) {
    const auto operand = [&](int value) {
      return form_.at(value, width(value) < width(step.out) ? "0" : "c");
    };
    return assign(step, std::string(before) + operand(step.a) + std::string(between) + operand(step.b) +
                            std::string(after));
  }

  /// One number a row out of the columns of a.
  std::string reduce(const Instruction& step, const std::string& start, const std::string& update,
                     const std::string& result) {
    return form_.each_row("float t = " + start + ";\n" + form_.columns(width(step.a), update) + "    " +
                          form_.at(step.out, "0") + " = " + result + ";");
  }

  std::string sum(const Instruction& step, const std::string& term) {
    const std::string weight = step.weights.empty() ? "" : form_.constant(step.weights, "c") + " * ";
    return reduce(step, "0.0f", "const float d = " + term + "; t += " + weight + "d;",
                  "t * " + literal(fused::to_float32(step.factor)));
  }

  std::string sum_of_squares(const Instruction& step, const std::string& term) {
    const std::string weight = step.weights.empty() ? "" : form_.constant(step.weights, "c") + " * ";
    return reduce(step, "0.0f", "const float d = " + term + "; t += " + weight + "(d * d);",
                  "t * " + literal(fused::to_float32(step.factor)));
  }

  /// The smallest or largest columns of a in order, by insertion into a short list.
  std::string extremes(const Instruction& step, const std::string& worst, std::string_view better,
                       std::string_view other) {
    const std::string count = text_of(width(step.out));
    const std::string list = "float best[" + count + "];\n    #pragma unroll\n    for (int j = 0; j < " +
                             count + "; ++j) best[j] = " + worst + ";\n";
    const std::string insert = "float x = " + form_.at(step.a, "c") +
                               ";\n      #pragma unroll\n      for (int j = 0; j < " + count +
                               "; ++j) { const float y = best[j]; best[j] = " + std::string(better) +
                               "(y, x); x = " + std::string(other) + "(y, x); }";
    const std::string store = "    #pragma unroll\n    for (int j = 0; j < " + count + "; ++j) " +
                              form_.at(step.out, "j") + " = best[j];";
    return form_.each_row(list + form_.columns(width(step.a), insert) + store);
  }

  std::string step(const Instruction& s) {
    switch (s.op) {
      case Op::dense: return form_.dense(s);
      case Op::apply: return assign(s, function_of(s.function, form_.at(s.a, "c")));
      case Op::affine: return assign(s, map(s));
      case Op::difference: return assign(s, difference(s));
      case Op::add: return binary(s, "", " + ", "");
      case Op::subtract: return binary(s, "", " - ", "");
      case Op::multiply: return binary(s, "", " * ", "");
      case Op::divide: return binary(s, "", " / ", "");
      case Op::minimum: return binary(s, "smaller(", ", ", ")");
      case Op::maximum: return binary(s, "larger(", ", ", ")");
      case Op::copy:
        return form_.each(width(s.a),
                          form_.at(s.out, text_of(s.out_column) + " + c") + " = " + form_.at(s.a, "c") + ";");
      case Op::gather: return assign(s, form_.at(s.a, form_.constant(s.indices, "c")));
      case Op::sum: return sum(s, form_.at(s.a, "c"));
      case Op::sum_squares: return sum_of_squares(s, map(s));
      case Op::sum_difference: return sum_of_squares(s, difference(s));
      case Op::min_columns: return reduce(s, "INFINITE", "t = smaller(t, " + form_.at(s.a, "c") + ");", "t");
      case Op::max_columns: return reduce(s, "-INFINITE", "t = larger(t, " + form_.at(s.a, "c") + ");", "t");
      case Op::smallest: return extremes(s, "INFINITE", "smaller", "larger");
      case Op::largest: return extremes(s, "-INFINITE", "larger", "smaller");
    }
    return {};
  }

  const Program& program_;
  Form& form_;
};

std::string all_steps(const Program& program, StepWriter& writer) {
  const std::size_t score = program.score_instructions;
  const std::size_t output = program.output_instructions;
  const std::size_t all = program.instructions.size();
  std::string text = writer.steps(0, score);
  if (output > score) {
    text += "    if (output != nullptr || contributions != nullptr) {\n" + writer.steps(score, output) +
            "    }\n";
  }
  if (all > output) text += "    if (contributions != nullptr) {\n" + writer.steps(output, all) + "    }\n";
  return text;
}

std::string signature(const std::string& name, const std::string& threads) {
  return "extern \"C\" __global__ void __launch_bounds__(" + threads + ") " + name +
         "(const float* __restrict__ input, long long rows, const float* __restrict__ constants,\n"
         "    float* __restrict__ scores, float* __restrict__ output, float* __restrict__ contributions) {\n";
}

std::size_t width_of(const Program& program, int value) {
  return program.widths[static_cast<std::size_t>(value)];
}

Source in_registers(const Program& program) {
  InRegisters form;
  StepWriter writer(program, form);
  const std::string steps = all_steps(program, writer);
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
  body += steps;
  const auto write = [&](const char* target, int value) {
    if (value < 0) return;
    const std::string width = text_of(width_of(program, value));
    body += "    if (" + std::string(target) + " != nullptr) {\n" +
            unrolled(width_of(program, value),
                     std::string(target) + "[row * " + width + " + c] = " + form.at(value, "c") + ";") +
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
  StepWriter writer(program, form);
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
                     "      frame[(" +
                     offset(program.input) + " + c) * PITCH + r] = r < count ? input[first * " + columns +
                     " + i] : 0.0f;\n    }\n    __syncthreads();\n";
  text += all_steps(program, writer);
  const auto write = [&](const char* target, int value) {
    if (value < 0) return;
    const std::string width = text_of(width_of(program, value));
    text += "    if (" + std::string(target) +
            " != nullptr) {\n      for (int i = threadIdx.x; i < count * " + width + "; i += THREADS) " +
            target + "[first * " + width + " + i] = frame[(" + offset(value) + " + i % " + width +
            ") * PITCH + i / " + width + "];\n    }\n";
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
  for (const Instruction& instruction : program.instructions) weights += instruction.dense.weights.size();
  return columns <= kMaxRegisterColumns && weights <= kMaxRegisterWeights;
}

}  // namespace

Source generate(const Program& program, std::size_t shared_bytes) {
  return fits_registers(program) ? in_registers(program) : in_shared_memory(program, shared_bytes);
}

}  // namespace datasentinel::fused_cuda
