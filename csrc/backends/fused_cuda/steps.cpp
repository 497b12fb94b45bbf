#include "backends/fused_cuda/steps.h"

#include <string_view>

#include "backends/fused/packed_program.h"
#include "backends/fused_cuda/functions.h"

namespace datasentinel::fused_cuda {
namespace {

using fused::Instruction;
using fused::Op;
using fused::Program;

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

}  // namespace

std::string all_steps(const fused::Program& program, Form& form) {
  StepWriter writer(program, form);
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

}  // namespace datasentinel::fused_cuda
