#pragma once

#include <cstddef>
#include <string_view>

#include "core/backend.h"

namespace datasentinel {

/// A real, tiny model for tests of what lies around a model: score = sum of the row, output = the row, and so
/// are the contributions.
class SumSession final : public Session {
 public:
  explicit SumSession(std::size_t input_dim) : input_dim_(input_dim) {}

  [[nodiscard]] std::size_t input_dim() const noexcept override { return input_dim_; }
  [[nodiscard]] std::string_view backend() const noexcept override { return "sum"; }
  [[nodiscard]] Facts facts() const override { return {}; }

  void run(ConstRows rows, Outputs outputs) override {
    for (std::size_t i = 0; i < rows.rows; ++i) {
      float sum = 0;
      for (std::size_t j = 0; j < input_dim_; ++j) {
        sum += rows.row(i)[j];
        if (outputs.contributions != nullptr) outputs.contributions[i * input_dim_ + j] = rows.row(i)[j];
        if (outputs.reconstructions != nullptr) outputs.reconstructions[i * input_dim_ + j] = rows.row(i)[j];
      }
      if (outputs.scores != nullptr) outputs.scores[i] = sum;
    }
  }

 private:
  std::size_t input_dim_;
};

}  // namespace datasentinel
