#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "backends/fused/frame_layout.h"
#include "backends/fused_cuda/constants.h"
#include "backends/fused_cuda/form.h"
#include "backends/fused_cuda/functions.h"

namespace datasentinel::fused_cuda {

/// One block of threads for a block of rows: values are columns of a frame, weights in global memory.
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

  [[nodiscard]] std::string dense(const fused::Instruction& step) override {
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

}  // namespace datasentinel::fused_cuda
