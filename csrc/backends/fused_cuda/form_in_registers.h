#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "backends/fused/packed_program.h"
#include "backends/fused_cuda/form.h"
#include "backends/fused_cuda/functions.h"
#include "backends/fused_cuda/text.h"

namespace datasentinel::fused_cuda {

/// One thread a row: values are local arrays, weights arrays of constants.
class InRegisters final : public Form {
 public:
  [[nodiscard]] std::string at(int value, const std::string& column) const override {
    return "v" + std::to_string(value) + "[" + column + "]";
  }
  [[nodiscard]] Slots slots(int /*value*/) const override { return {}; }
  [[nodiscard]] std::string constant(const std::vector<double>& values, const std::string& column) override {
    return declare(values) + "[" + column + "]";
  }
  [[nodiscard]] std::string constant(const std::vector<int>& values, const std::string& column) override {
    return "(int)" + declare(std::vector<double>(values.begin(), values.end())) + "[" + column + "]";
  }
  [[nodiscard]] std::string each(std::size_t width, const std::string& body) const override {
    return unrolled("c", width, body);
  }
  [[nodiscard]] std::string loop(std::size_t count, const std::string& body) const override {
    return "\n" + unrolled("k", count, body);
  }
  [[nodiscard]] Pieces reduce(const Reduction& reduction) const override {
    const std::string text = fill(
        R"(    {
      float t[@kept@];
@start@@take@@store@    }
)",
        {{"kept", text_of(reduction.kept)},
         {"start", unrolled("j", reduction.kept, "t[j] = " + reduction.start + ";")},
         {"take", unrolled("c", width(reduction.a), reduction.take)},
         {"store", unrolled("j", reduction.kept, at(reduction.out, "j") + " = " + reduction.result + ";")}});
    return {{.text = text}};
  }
  [[nodiscard]] Pieces dense(const fused::Instruction& step) override {
    const fused::Dense& layer = step.dense;
    const std::string weights = declare(layer.weights);
    const std::string start = layer.bias.empty() ? "0.0f" : declare(layer.bias) + "[c]";
    const std::string body = fill(R"(
      float sum = @start@;
      #pragma unroll
      for (int k = 0; k < @inputs@; ++k) sum = fmaf(@x@, @weights@[k * @outputs@ + c], sum);
      @out@ = @y@;)",
                                  {{"start", start},
                                   {"inputs", text_of(layer.inputs)},
                                   {"outputs", text_of(layer.outputs)},
                                   {"x", at(step.a, "k")},
                                   {"weights", weights},
                                   {"out", at(step.out, "c")},
                                   {"y", function_of(step.function, "sum")}});
    return {{.text = each(layer.outputs, body)}};
  }
  [[nodiscard]] bool in_parts(const fused::Instruction& /*step*/) const override { return false; }
  [[nodiscard]] Pieces dense_in_parts(const fused::Instruction& /*step*/, const Correction& /*correction*/,
                                      const std::vector<Reduction>& /*reductions*/) override {
    return {};
  }
  [[nodiscard]] std::string barrier() const override { return ""; }

  explicit InRegisters(const fused::Program& program) : program_(program) {}

  /// The arrays that the steps so far name. Unrolled, their elements become immediate operands.
  [[nodiscard]] const std::string& declarations() const noexcept { return declarations_; }

  [[nodiscard]] static std::string unrolled(const char* index, std::size_t count, const std::string& body) {
    return fill("    #pragma unroll\n    for (int @i@ = 0; @i@ < @count@; ++@i@) { @body@ }\n",
                {{"i", index}, {"count", text_of(count)}, {"body", body}});
  }

 private:
  [[nodiscard]] std::size_t width(int value) const {
    return program_.widths[static_cast<std::size_t>(value)];
  }

  std::string declare(const std::vector<double>& values) {
    const std::string name = "k" + std::to_string(count_++);
    declarations_ += "  const float " + name + "[" + text_of(values.size()) + "] = {";
    for (const double value : values) declarations_ += literal(fused::to_float32(value)) + ",";
    declarations_ += "};\n";
    return name;
  }

  const fused::Program& program_;
  std::string declarations_;
  int count_ = 0;
};

}  // namespace datasentinel::fused_cuda
