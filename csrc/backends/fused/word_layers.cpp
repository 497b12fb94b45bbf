#include "backends/fused/word_layers.h"

#include <bit>
#include <cmath>
#include <map>
#include <utility>

#include "backends/fused/network_layers.h"
#include "backends/fused/packed_program.h"

namespace datasentinel::fused {
namespace {

std::size_t whole_tiles(std::size_t count) { return (count + kWordTile - 1) / kWordTile * kWordTile; }

double whole_weight(const Dense& layer, std::size_t k, std::size_t n) {
  return std::nearbyint(layer.weights[k * layer.outputs + n] / layer.quanta[n]);
}

/// Whether its sums in whole numbers fit, too.
bool has_weights_of_eight_bits(const Dense& layer) {
  constexpr std::size_t kMostInputs = std::size_t{1} << 16;
  if (layer.quanta.empty() || layer.inputs > kMostInputs) return false;
  for (std::size_t n = 0; n < layer.outputs; ++n) {
    for (std::size_t k = 0; k < layer.inputs; ++k) {
      const double whole = whole_weight(layer, k, n);
      if (!(whole >= -128 && whole <= 127)) return false;
    }
  }
  return true;
}

/// By value: what quantised it, or null.
std::vector<const FunctionCall*> quantized_values(const std::vector<Instruction>& instructions,
                                                  std::size_t values) {
  std::vector<const FunctionCall*> quantized(values, nullptr);
  for (const Instruction& step : instructions) {
    const auto out = static_cast<std::size_t>(step.out);
    if (step.function.function == Function::quantize) quantized[out] = &step.function;
    // Part of a quantised value, or the larger of it and zero, is one as well.
    const bool keeps =
        step.op == Op::gather || (step.op == Op::apply && step.function.function == Function::relu);
    if (keeps) quantized[out] = quantized[static_cast<std::size_t>(step.a)];
  }
  return quantized;
}

}  // namespace

std::size_t words_for(std::size_t inputs, Arithmetic arithmetic) noexcept {
  const std::size_t numbers = numbers_per_word(arithmetic);
  return whole_tiles((inputs + numbers - 1) / numbers);
}

std::uint16_t to_bf16(float value) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  return static_cast<std::uint16_t>((bits + 0x7FFFU + (bits >> 16U & 1U)) >> 16U);
}

Program with_layers_in_words(Program program, Arithmetic arithmetic) {
  if (arithmetic == Arithmetic::float32) return program;
  const std::vector<bool> layers = network_layers(program);
  std::vector<Instruction> instructions = std::exchange(program.instructions, {});
  const std::vector<const FunctionCall*> quantized = quantized_values(instructions, program.widths.size());
  const auto is_in_words = [&](const Instruction& step) {
    if (step.op != Op::dense) return false;
    if (arithmetic == Arithmetic::bf16) return bool{layers[static_cast<std::size_t>(step.out)]};
    return quantized[static_cast<std::size_t>(step.a)] != nullptr && is_wide(step.dense) &&
           has_weights_of_eight_bits(step.dense);
  };
  std::map<int, int> packed;  // values, by what they were packed from
  const auto end_of = [&, score = program.score_instructions,
                       output = program.output_instructions](std::size_t done) {
    if (done == score) program.score_instructions = program.instructions.size();
    if (done == output) program.output_instructions = program.instructions.size();
  };
  for (std::size_t i = 0; i < instructions.size(); ++i) {
    end_of(i);
    Instruction step = instructions[i];
    if (is_in_words(step)) {
      const FunctionCall* quantize = quantized[static_cast<std::size_t>(step.a)];
      step.zero_point = quantize == nullptr ? 0 : static_cast<int>(quantize->b);
      const auto [found, is_new] = packed.try_emplace(step.a, static_cast<int>(program.widths.size()));
      if (is_new) {
        program.widths.push_back(words_for(step.dense.inputs, arithmetic));
        Instruction pack;
        pack.op = Op::pack;
        pack.a = step.a;
        pack.out = found->second;
        pack.arithmetic = arithmetic;
        pack.zero_point = step.zero_point;
        program.instructions.push_back(std::move(pack));
      }
      step.a = found->second;
      step.arithmetic = arithmetic;
    }
    program.instructions.push_back(std::move(step));
  }
  end_of(instructions.size());
  return program;
}

WordMatrix words_of(const Dense& layer, Arithmetic arithmetic) {
  const std::size_t numbers = numbers_per_word(arithmetic);
  const std::size_t bits = 32 / numbers;
  WordMatrix matrix{.words = words_for(layer.inputs, arithmetic),
                    .columns = whole_tiles(layer.outputs),
                    .weights = {},
                    .sums = {}};
  matrix.weights.resize(matrix.words * matrix.columns);
  if (arithmetic == Arithmetic::int8) matrix.sums.resize(matrix.columns);
  for (std::size_t k = 0; k < layer.inputs; ++k) {
    for (std::size_t n = 0; n < layer.outputs; ++n) {
      std::uint32_t number = 0;
      if (arithmetic == Arithmetic::int8) {
        const auto whole = static_cast<std::int32_t>(whole_weight(layer, k, n));
        matrix.sums[n] += whole;
        number = static_cast<std::uint8_t>(whole);
      } else {
        number = to_bf16(to_float32(layer.weights[k * layer.outputs + n]));
      }
      matrix.weights[k / numbers * matrix.columns + n] |= number << (k % numbers * bits);
    }
  }
  return matrix;
}

}  // namespace datasentinel::fused
