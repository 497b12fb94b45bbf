#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "backends/fused/program.h"
#include "backends/fused/shape.h"
#include "backends/fused/tree_sums.h"

namespace datasentinel::fused {

/// A tensor of the graph, as a formula over values of the program that is written out only when needed.
struct Symbol {
  enum class Form {
    affine,      ///< (a - center) scale + offset
    difference,  ///< (a - center) scale + offset - b scale_b
    squares,     ///< weights times the square of the above; without b when b < 0
  };

  Form form = Form::affine;
  int a = -1;
  int b = -1;
  std::vector<double> center, scale, offset, scale_b, weights;  ///< Empty: 0, 1, 0, 1, 1.
  std::size_t width = 0;
  Shape shape = Shape::matrix(0);

  [[nodiscard]] bool is_plain() const noexcept {
    return form == Form::affine && center.empty() && scale.empty() && offset.empty();
  }
};

/// Writes a Program. The symbolic operations emit nothing; the others emit instructions and may rewrite the
/// symbols they read into plain ones.
///
/// Small files must not ask for much memory: columns of values, constants for columns and instructions are
/// counted before they are kept, and too many of them are an Error{unsupported_model}.
class ProgramBuilder {
 public:
  /// `numbers_read`: how many the file has; so many more constants may be made.
  explicit ProgramBuilder(std::size_t numbers_read) : numbers_read_(numbers_read) {}

  [[nodiscard]] std::size_t numbers_read() const noexcept { return numbers_read_; }

  [[nodiscard]] Symbol input(std::size_t width);
  [[nodiscard]] Symbol state(std::size_t width);

  // Symbolic. Constants have as many elements as the symbol has columns, in the columns' order. `add` to the
  // plain result of a layer without a bias makes it its bias.
  [[nodiscard]] Symbol add(Symbol symbol, const std::vector<double>& constant);
  [[nodiscard]] Symbol multiply(Symbol symbol, const std::vector<double>& constant);
  [[nodiscard]] Symbol difference(Symbol& left, Symbol& right);  ///< Widths must be equal.
  [[nodiscard]] Symbol add(Symbol& left, Symbol& right);         ///< Widths must be equal.
  [[nodiscard]] Symbol square(Symbol& symbol);

  /// Counts the constants of a symbol that is kept.
  void keep(const Symbol& symbol);

  /// Notes that more than one reader will see the value behind `symbol`, so that it must stay as it is.
  void share(const Symbol& symbol);

  /// `only_reader`: nothing else reads `symbol`, so the function may move into the layer that computes it.
  [[nodiscard]] Symbol apply(FunctionCall function, Symbol& symbol, bool only_reader);
  [[nodiscard]] Symbol dense(Dense layer, Symbol& symbol);
  /// By output of `points`, function(factor times the squared distance to the point with these weights).
  [[nodiscard]] Symbol distances(Dense points, Symbol& symbol, double factor, FunctionCall function);
  [[nodiscard]] Symbol binary(Op op, Symbol& left, Symbol& right);
  [[nodiscard]] Symbol concat(const std::vector<Symbol*>& parts);
  [[nodiscard]] Symbol gather(Symbol& symbol, std::vector<int> columns);
  /// factor times the sum of the columns.
  [[nodiscard]] Symbol sum(Symbol& symbol, double factor);
  /// min_columns, max_columns, smallest and largest.
  [[nodiscard]] Symbol reduce(Op op, Symbol& symbol, std::size_t width);
  [[nodiscard]] Symbol trees(const TreeSum& sum);
  /// Repeats a symbol of width 1.
  [[nodiscard]] Symbol expand(Symbol& symbol, std::size_t width);

  /// Writes the symbol out and returns its value.
  int materialize(Symbol& symbol);

  /// What the state becomes.
  void set_state_next(Symbol& symbol) { program_.state_next = materialize(symbol); }

  /// Everything so far is what the score needs, and the state after it.
  void end_of_score() { program_.score_instructions = program_.instructions.size(); }
  /// Everything so far is what the score and the output need.
  void end_of_output() { program_.output_instructions = program_.instructions.size(); }
  [[nodiscard]] Program finish(int score, int output, int contributions);

 private:
  int new_value(std::size_t width);
  void push(Instruction instruction);
  [[nodiscard]] bool has_room_for(std::size_t constants) const;
  void count_constants(std::size_t numbers);
  /// Whether weights may be changed: others that share them keep theirs, where there is room for both.
  [[nodiscard]] bool make_own(SharedNumbers& weights);
  Symbol emit(Instruction instruction, std::size_t width);
  int read(Symbol& symbol);
  /// Writes the symbol out unless it is a form of one value.
  void make_affine(Symbol& symbol);
  /// The layer that computes `value`, when its weights may still be changed.
  Dense* open_layer(int value);

  Program program_;
  std::vector<int> producer_;  ///< Instruction that computes each value; -1 for the input.
  std::vector<char> shared_;   ///< Values that have been read as they are.
  std::size_t columns_ = 0;    ///< Of all values.
  std::size_t constants_ = 0;  ///< Of symbols and instructions, and of layers that were changed.
  std::size_t numbers_read_ = 0;
};

/// Throws Error{unsupported_model}: the fused backend cannot run the graph, because of `problem`.
[[noreturn]] void refuse_graph(const std::string& problem);

}  // namespace datasentinel::fused
