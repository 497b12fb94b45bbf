#pragma once

#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "backends/fused/kernel_api.h"
#include "backends/fused/trees.h"

namespace datasentinel::fused {

/// Numbers that copies share until one of them is changed.
class SharedNumbers {
 public:
  SharedNumbers() = default;
  SharedNumbers(std::vector<double> numbers)  // NOLINT(google-explicit-constructor): they are numbers
      : numbers_(std::make_shared<std::vector<double>>(std::move(numbers))) {}

  [[nodiscard]] double operator[](std::size_t index) const { return (*numbers_)[index]; }
  [[nodiscard]] std::size_t size() const { return numbers_ == nullptr ? 0 : numbers_->size(); }
  /// Null where there are none.
  [[nodiscard]] const std::vector<double>* shared() const { return numbers_.get(); }
  [[nodiscard]] operator const std::vector<double>&() const { return *numbers_; }  // NOLINT: the same
  [[nodiscard]] bool are_shared() const noexcept { return numbers_.use_count() > 1; }
  [[nodiscard]] std::vector<double>& own() {
    if (are_shared()) numbers_ = std::make_shared<std::vector<double>>(*numbers_);
    return *numbers_;
  }

 private:
  std::shared_ptr<std::vector<double>> numbers_;
};

/// out[n] = sum over k of in[k] weights[k * outputs + n], plus bias[n]; the same for every window of columns,
/// the results one behind the other.
struct Dense {
  std::size_t inputs = 0;
  std::size_t outputs = 0;
  std::size_t windows = 1;
  std::size_t step = 0;  ///< Columns from one window to the next.
  SharedNumbers weights;
  std::vector<double> bias;  ///< Empty: none.
  /// By output, where every weight is a whole number times this, as quantised ones are; empty where they are
  /// not.
  std::vector<double> quanta;
};

/// One step over values, with its constants in float64. Empty vectors mean what null means in `Step`.
struct Instruction {
  Op op = Op::copy;
  int a = -1;  ///< Values, as indices into Program::widths.
  int b = -1;
  int out = -1;
  std::size_t out_column = 0;  ///< copy: where in `out` to write (Concat).
  FunctionCall function;
  Dense dense;                                  ///< distances: by output, a point.
  Arithmetic arithmetic = Arithmetic::float32;  ///< pack, and dense of packed inputs,
  int zero_point = 0;  ///< and of what the inputs were quantised with, `b` of the function.
  std::vector<double> center, scale, offset, scale_b, weights;
  std::vector<int> indices;  ///< Negative: zero.
  Forest forest;
  double factor = 1;
};

/// Whether it picks neighbouring columns in their order, so that whole vectors can be copied.
[[nodiscard]] inline bool is_range(const Instruction& instruction) noexcept {
  if (instruction.op != Op::gather || instruction.indices.front() < 0) return false;
  for (std::size_t i = 1; i < instruction.indices.size(); ++i) {
    if (instruction.indices[i] != instruction.indices[i - 1] + 1) return false;
  }
  return true;
}

/// What a graph was lowered to: steps in order over values, each of which is written once (a Concat piece by
/// piece) and has a fixed number of columns.
struct Program {
  std::vector<std::size_t> widths;
  std::vector<Instruction> instructions;
  std::size_t score_instructions = 0;   ///< The first ones compute the score,
  std::size_t output_instructions = 0;  ///< these the output, too, and all of them the contributions.
  int input = -1;
  int score = -1;
  int output = -1;         ///< -1: the graph has none.
  int state = -1;          ///< -1: the graph has no memory.
  int state_next = -1;     ///< Known when the score is.
  int contributions = -1;  ///< -1: the graph has none.
};

}  // namespace datasentinel::fused
