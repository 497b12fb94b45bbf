#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "serving/batch_scorer.h"

// What a request of the Open Inference Protocol sends and asks for, over HTTP as over gRPC.

namespace datasentinel {

/// What a reply may hold, in the order of `kModelOutputNames`.
enum class ModelOutput : std::uint8_t { score, anomaly, warming, severity, output, contributions };
inline constexpr std::array<std::string_view, 6> kModelOutputNames{"score",    "anomaly", "warming",
                                                                   "severity", "output",  "contributions"};

[[nodiscard]] constexpr std::string_view name_of(ModelOutput output) noexcept {
  return kModelOutputNames[static_cast<std::size_t>(output)];
}

/// Whether it has as many columns as the input.
[[nodiscard]] constexpr bool is_matrix(ModelOutput output) noexcept { return output >= ModelOutput::output; }

/// Whether its values are truths, of a byte each, and not float32.
[[nodiscard]] constexpr bool is_bool(ModelOutput output) noexcept {
  return output == ModelOutput::anomaly || output == ModelOutput::warming;
}

/// How many values it has for a task's rows, and how many bytes they are.
[[nodiscard]] std::size_t count_values(const ScoringTask& task, ModelOutput output) noexcept;
[[nodiscard]] std::size_t count_bytes(const ScoringTask& task, ModelOutput output) noexcept;

/// A number of a scored task's output, one that is not `is_bool`.
[[nodiscard]] float number_of(const ScoringTask& task, ModelOutput output, std::size_t index) noexcept;

/// Appends `count` values of a scored task's output from `first` on, as bytes.
void append_values(const ScoringTask& task, ModelOutput output, std::size_t first, std::size_t count,
                   std::string& out);

/// The outputs that a request asks for, each once, in its order.
class AskedOutputs {
 public:
  /// Adds one by its name. Returns why it cannot be had, or an empty string; `is_plain`: the request wants it
  /// neither in shared memory nor as a classification.
  [[nodiscard]] std::string add(std::string_view name, bool is_plain);
  /// Why this model has not all of them, or an empty string.
  [[nodiscard]] std::string problem_for(const ServedModel& model) const;
  /// Those of a request that does not say.
  void add_usual(const ServedModel& model) noexcept;
  void clear() noexcept { count_ = 0; }

  [[nodiscard]] std::span<const ModelOutput> all() const noexcept { return {outputs_.data(), count_}; }
  /// What has to be computed for them.
  [[nodiscard]] Wanted wanted() const noexcept;

 private:
  std::array<ModelOutput, kModelOutputNames.size()> outputs_{};
  std::size_t count_ = 0;
};

/// Why a tensor is not the model's input, or an empty string.
[[nodiscard]] std::string problem_of_input(std::string_view name, std::string_view datatype,
                                           bool in_shared_memory);
/// Why so many rows are too many, or an empty string.
[[nodiscard]] std::string problem_of_row_count(std::int64_t rows, std::size_t max_rows);

}  // namespace datasentinel
