#include "backends/fused/word_layers.h"

#include <bit>
#include <map>
#include <utility>

#include "backends/fused/network_layers.h"
#include "backends/fused/packed_program.h"

namespace datasentinel::fused {
namespace {

std::size_t whole_tiles(std::size_t count) { return (count + kWordTile - 1) / kWordTile * kWordTile; }

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
  std::map<int, int> packed;  // values, by what they were packed from
  std::vector<Instruction> instructions = std::exchange(program.instructions, {});
  const auto end_of = [&, score = program.score_instructions,
                       output = program.output_instructions](std::size_t done) {
    if (done == score) program.score_instructions = program.instructions.size();
    if (done == output) program.output_instructions = program.instructions.size();
  };
  for (std::size_t i = 0; i < instructions.size(); ++i) {
    end_of(i);
    Instruction& step = instructions[i];
    if (layers[static_cast<std::size_t>(step.out)] && step.op == Op::dense) {
      const auto [found, is_new] = packed.try_emplace(step.a, static_cast<int>(program.widths.size()));
      if (is_new) {
        program.widths.push_back(words_for(step.dense.inputs, arithmetic));
        Instruction pack;
        pack.op = Op::pack;
        pack.a = step.a;
        pack.out = found->second;
        pack.arithmetic = arithmetic;
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
  WordMatrix matrix{
      .words = words_for(layer.inputs, arithmetic), .columns = whole_tiles(layer.outputs), .weights = {}};
  matrix.weights.resize(matrix.words * matrix.columns);
  for (std::size_t k = 0; k < layer.inputs; ++k) {
    for (std::size_t n = 0; n < layer.outputs; ++n) {
      const std::uint32_t number = to_bf16(to_float32(layer.weights[k * layer.outputs + n]));
      matrix.weights[k / numbers * matrix.columns + n] |= number << (k % numbers * bits);
    }
  }
  return matrix;
}

}  // namespace datasentinel::fused
