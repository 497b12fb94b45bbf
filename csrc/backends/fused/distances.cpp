#include "backends/fused/distances.h"

#include <algorithm>
#include <cstddef>
#include <functional>
#include <iterator>
#include <optional>
#include <utility>
#include <vector>

#include "backends/fused/shape.h"

namespace datasentinel::fused {
namespace {

/// A column of a value.
struct Column {
  int value = -1;
  int index = 0;
};

class Search {
 public:
  explicit Search(const Program& program)
      : program_(program),
        writers_(program.widths.size(), nullptr),
        summed_(program.widths.size(), -1),
        readers_(program.widths.size(), 0) {
    for (const int result : {program.score, program.output, program.contributions, program.state_next}) {
      read(result, 1);
    }
    for (const Instruction& step : program.instructions) {
      read(step.a, 1);
      read(step.b, 1);
    }
    for (const Instruction& step : program.instructions) {
      if (step.op == Op::copy) continue;  // Several of them write one value.
      writers_[index(step.out)] = &step;
      summed_[index(step.out)] = summed_by(step);
      if (step.op != Op::add || summed_[index(step.out)] < 0) continue;
      read(step.a, -1);
      read(step.b, -1);
    }
  }

  /// The points and columns of the sum that `step` computes, if it is one and read as a whole.
  [[nodiscard]] std::optional<Instruction> distances(const Instruction& step) const {
    if (step.op == Op::copy || summed_[index(step.out)] < 0 || readers_[index(step.out)] == 0) {
      return std::nullopt;
    }
    Instruction distances;
    distances.op = Op::distances;
    distances.a = summed_[index(step.out)];
    distances.out = step.out;
    distances.dense.outputs = program_.widths[index(step.out)];
    std::vector<int> values{step.out};
    std::vector<double> points;
    while (!values.empty()) {
      const Instruction& part = *writers_[index(values.back())];
      values.pop_back();
      if (part.op == Op::add) {
        values.insert(values.end(), {part.b, part.a});
        continue;
      }
      const Instruction& difference = *writers_[index(part.a)];
      distances.indices.push_back(column_of(difference).index);
      std::ranges::transform(difference.dense.bias, std::back_inserter(points), std::negate<>());
    }
    distances.dense.inputs = distances.indices.size();
    distances.dense.weights = std::move(points);
    return distances;
  }

 private:
  static std::size_t index(int value) { return static_cast<std::size_t>(value); }

  void read(int value, int times) {
    if (value >= 0) readers_[index(value)] += times;
  }

  /// Only what has no other reader becomes part of a sum: what two sums share would be computed twice.
  [[nodiscard]] bool is_read_once(int value) const { return readers_[index(value)] == 1; }

  /// The value of whose columns `step` sums up squared differences; -1 if it does not.
  [[nodiscard]] int summed_by(const Instruction& step) const {
    if (step.op == Op::apply && step.function.function == Function::square) {
      const Instruction* difference = writers_[index(step.a)];
      const bool sums = difference != nullptr && is_difference(*difference) && is_read_once(step.a);
      return sums ? column_of(*difference).value : -1;
    }
    const bool sums = step.op == Op::add && is_read_once(step.a) && is_read_once(step.b) &&
                      summed_[index(step.a)] == summed_[index(step.b)] &&
                      program_.widths[index(step.a)] == program_.widths[index(step.b)];
    return sums ? summed_[index(step.a)] : -1;
  }

  /// Whether it takes a constant of each point from one column.
  static bool is_difference(const Instruction& step) {
    return step.op == Op::dense && step.function.function == Function::identity && step.dense.inputs == 1 &&
           step.dense.windows == 1 && step.dense.bias.size() == step.dense.outputs &&
           std::ranges::all_of(*step.dense.weights.shared(), [](double weight) { return weight == 1; });
  }

  [[nodiscard]] Column column_of(const Instruction& difference) const {
    const Instruction* picks = writers_[index(difference.a)];
    if (picks == nullptr || picks->op != Op::gather) return {.value = difference.a, .index = 0};
    return {.value = picks->a, .index = picks->indices.front()};
  }

  const Program& program_;
  std::vector<const Instruction*> writers_;  ///< By value, as what follows.
  std::vector<int> summed_;                  ///< As `summed_by`.
  std::vector<int> readers_;                 ///< Beside larger sums.
};

}  // namespace

Program with_distances(Program program) {
  const Search search(program);
  std::vector<Instruction> instructions;
  std::vector<std::size_t> widths = program.widths;
  for (const Instruction& step : program.instructions) {
    auto distances = search.distances(step);
    if (!distances) {
      instructions.push_back(step);
      continue;
    }
    std::vector<int> columns = std::exchange(distances->indices, {});
    if (!are_all_of(columns, widths[static_cast<std::size_t>(distances->a)])) {
      Instruction gather;
      gather.op = Op::gather;
      gather.a = distances->a;
      gather.out = distances->a = static_cast<int>(widths.size());
      widths.push_back(columns.size());
      gather.indices = std::move(columns);
      instructions.push_back(std::move(gather));
    }
    instructions.push_back(std::move(*distances));
  }
  program.instructions = std::move(instructions);
  program.widths = std::move(widths);
  return program;
}

}  // namespace datasentinel::fused
