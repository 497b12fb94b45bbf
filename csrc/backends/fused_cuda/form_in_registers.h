#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "backends/fused/packed_program.h"
#include "backends/fused_cuda/form.h"
#include "backends/fused_cuda/functions.h"

namespace datasentinel::fused_cuda {

/// One thread a row: values are local arrays, weights arrays of constants.
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

  [[nodiscard]] std::string dense(const fused::Instruction& step) override {
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

}  // namespace datasentinel::fused_cuda
