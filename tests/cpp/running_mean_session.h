#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

#include "core/backend.h"

namespace datasentinel {

/// A real, tiny model with memory: score = sum of the row - mean of the sums before it in its stream. A state
/// holds the sum of all sums and the number of rows seen.
class RunningMeanSession final : public Session {
 public:
  explicit RunningMeanSession(std::size_t input_dim) : input_dim_(input_dim) {}

  [[nodiscard]] std::size_t input_dim() const noexcept override { return input_dim_; }
  [[nodiscard]] std::size_t state_dim() const noexcept override { return 2; }
  [[nodiscard]] std::string_view backend() const noexcept override { return "running mean"; }
  [[nodiscard]] Facts facts() const override { return {}; }

  void run(ConstRows rows, Outputs outputs) override {
    std::vector<float> states(2 * rows.rows);
    step(rows, {.before = states.data(), .after = states.data()}, outputs);
  }

  void step(ConstRows rows, States states, Outputs outputs) override {
    for (std::size_t i = 0; i < rows.rows; ++i) {
      float sum = 0;
      for (std::size_t j = 0; j < input_dim_; ++j) sum += rows.row(i)[j];
      if (sum == kFault) throw Error(ErrorCode::backend_failure, "the device fell off the bus");
      const float before = states.before[2 * i];
      const float seen = states.before[2 * i + 1];
      if (outputs.scores != nullptr) outputs.scores[i] = sum - (seen == 0 ? 0 : before / seen);
      states.after[2 * i] = before + sum;
      states.after[2 * i + 1] = seen + 1;
    }
  }

  static constexpr float kFault = 666;  ///< A row of this sum cannot be scored.

 private:
  std::size_t input_dim_;
};

}  // namespace datasentinel
