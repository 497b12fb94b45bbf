#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "backends/fused/program.h"

namespace datasentinel::fused_cuda {

inline std::string text_of(std::size_t number) { return std::to_string(number); }

/// How the two forms write the same steps. `{}` below stands for the column.
class Form {
 public:
  Form() = default;
  Form(const Form&) = delete;
  Form& operator=(const Form&) = delete;
  virtual ~Form() = default;

  /// `value`'s column `column` (an expression), of the row at hand.
  [[nodiscard]] virtual std::string at(int value, const std::string& column) const = 0;
  /// Constant number `column` of `values`.
  [[nodiscard]] virtual std::string constant(const std::vector<double>& values,
                                             const std::string& column) = 0;
  [[nodiscard]] virtual std::string constant(const std::vector<int>& values, const std::string& column) = 0;
  /// Runs `body` for each row and each column `c` below `width`.
  [[nodiscard]] virtual std::string each(std::size_t width, const std::string& body) const = 0;
  /// Runs `body` for each row.
  [[nodiscard]] virtual std::string each_row(const std::string& body) const = 0;
  [[nodiscard]] virtual std::string dense(const fused::Instruction& step) = 0;
  /// Runs `body` for each column `c` below `width`, of the row at hand.
  [[nodiscard]] virtual std::string columns(std::size_t width, const std::string& body) const = 0;
  /// What stands between two steps.
  [[nodiscard]] virtual std::string barrier() const = 0;
};

/// Runs `body` for each column `c` below `width`, after `pragma`.
inline std::string loop(const char* pragma, std::size_t width, const std::string& body) {
  return std::string("    ") + pragma + "\n    for (int c = 0; c < " + text_of(width) + "; ++c) { " + body +
         " }\n";
}

inline std::string unrolled(std::size_t width, const std::string& body) {
  return loop("#pragma unroll", width, body);
}

}  // namespace datasentinel::fused_cuda
