#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "backends/fused/program.h"

namespace datasentinel::fused_cuda {

/// Columns of the frame that a piece of text touches; none where threads share nothing.
struct Slots {
  int begin = 0;
  int end = 0;
  [[nodiscard]] bool overlaps(Slots other) const noexcept { return begin < other.end && other.begin < end; }
};

/// Text that threads run without waiting for each other, and what it reads and writes of what they share.
struct Piece {
  std::string text;
  std::vector<Slots> reads = {};
  std::vector<Slots> writes = {};
  std::string arrival =
      {};  ///< Text that waits for its writes, where others make them: no barrier does then.
};
using Pieces = std::vector<Piece>;

/// Numbers of a row that are made out of all columns of a value.
struct Reduction {
  int a = -1;
  int b = -1;            ///< A second value that `take` reads; -1: none.
  std::size_t kept = 1;  ///< So many, in an array `t`.
  std::string start;     ///< What each of them starts with.
  std::string take;      ///< Statement that takes column `c` of the row at hand into `t`.
  std::string merge;     ///< Statement that takes `x`, a number out of another thread's `t`.
  std::string result;    ///< What becomes of `t[j]`.
  int out = -1;
};

/// What becomes of a layer's columns before they are taken: statements for the row at hand, then for its
/// column `c`.
struct Correction {
  std::string row;
  std::string column;
  [[nodiscard]] std::string text() const { return row + column; }
};

/// How a form writes the steps of a program.
class Form {
 public:
  Form() = default;
  Form(const Form&) = delete;
  Form& operator=(const Form&) = delete;
  virtual ~Form() = default;

  /// `value`'s column `column` (an expression), of the row at hand.
  [[nodiscard]] virtual std::string at(int value, const std::string& column) const = 0;
  [[nodiscard]] virtual Slots slots(int value) const = 0;
  /// Constant number `column` of `values`.
  [[nodiscard]] virtual std::string constant(const std::vector<double>& values,
                                             const std::string& column) = 0;
  [[nodiscard]] virtual std::string constant(const std::vector<int>& values, const std::string& column) = 0;
  /// Runs `body` for each row and each column `c` below `width`. The same thread gets the same row and column
  /// each time that `width` is the same.
  [[nodiscard]] virtual std::string each(std::size_t width, const std::string& body) const = 0;
  /// Runs `body` for each `k` below `count`, for the row and column at hand.
  [[nodiscard]] virtual std::string loop(std::size_t count, const std::string& body) const {
    return "\n#pragma unroll 4\nfor (int k = 0; k < " + std::to_string(count) + "; ++k) { " + body + " }\n";
  }
  [[nodiscard]] virtual Pieces reduce(const Reduction& reduction) const = 0;
  [[nodiscard]] virtual Pieces dense(const fused::Instruction& step) = 0;
  /// Whether `step`'s result is to be taken by the next steps, `reductions`, some columns at a time.
  [[nodiscard]] virtual bool in_parts(const fused::Instruction& step) const = 0;
  [[nodiscard]] virtual Pieces dense_in_parts(const fused::Instruction& step, const Correction& correction,
                                              const std::vector<Reduction>& reductions) = 0;
  /// Where all threads wait for each other.
  [[nodiscard]] virtual std::string barrier() const = 0;
};

}  // namespace datasentinel::fused_cuda
