#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/error.h"
#include "serving/float_buffer.h"
#include "serving/model_table.h"
#include "serving/stream_scorer.h"

namespace datasentinel {

/// What is to be computed; nothing else is.
struct Wanted {
  bool scores = false;
  bool reconstructions = false;
  bool contributions = false;

  bool operator==(const Wanted&) const = default;
};

/// What a row is.
enum class Decision : std::uint8_t { ok, anomaly, warming };

/// Rows of a request that follow each other in one stream.
struct StreamRows {
  std::string stream;
  std::size_t rows = 0;
  bool starts = false;  ///< The stream begins anew before them.
  bool ends = false;    ///< The stream is forgotten after them.
};

/// The rows of one request, and then its answer.
struct ScoringTask {
  std::shared_ptr<const ServedModel> model;
  Wanted wanted;
  std::size_t rows = 0;
  FloatBuffer values;               ///< rows x columns, as many columns as the model has inputs.
  std::vector<StreamRows> streams;  ///< For a model with memory: whose the rows are, in order.
  std::vector<double> times_s;  ///< For one with memory: when each was taken; empty where it is not known.

  FloatBuffer scores;                 ///< One per row, if wanted.
  FloatBuffer reconstructions;        ///< rows x columns, if wanted.
  FloatBuffer contributions;          ///< rows x columns, if wanted.
  std::vector<std::uint8_t> warming;  ///< Of a model with memory: one per row, 1 for a row that is.
  std::optional<Error> failure;
  std::chrono::nanoseconds waited{0};  ///< In the queue; 0 for a task that was scored at once.

  void recycle() noexcept;

  /// What a scored row is.
  [[nodiscard]] bool is_warming(std::size_t row) const noexcept {
    return !warming.empty() && warming[row] != 0;
  }
  [[nodiscard]] bool is_anomaly(std::size_t row) const noexcept {
    return model->scorer->is_anomaly(scores.data()[row]) && !is_warming(row);
  }
  [[nodiscard]] Decision decision(std::size_t row) const noexcept {
    if (is_warming(row)) return Decision::warming;
    return is_anomaly(row) ? Decision::anomaly : Decision::ok;
  }
  [[nodiscard]] std::size_t count_anomalies() const noexcept;
};

/// Scores the tasks of many requests in as few batches as possible. A bad task fails alone: its batch-mates
/// are answered as if it had not been there.
///
/// Each row's answer may differ in its last bits with the size of the batch it went through. Rows of one
/// stream are scored in the order of the tasks. One thread at a time.
class BatchScorer {
 public:
  /// Answers every task. Never throws for a task's sake.
  void score(std::span<ScoringTask* const> tasks);

  /// Scores some rows of a task, whose first `begin` rows are scored; it must not have failed.
  static void score_rows(ScoringTask& task, std::size_t begin, std::size_t count);

 private:
  void score_alike(std::span<ScoringTask* const> tasks);
  void score_batch(std::span<ScoringTask* const> tasks, std::size_t rows);
  void score_streams(std::span<ScoringTask* const> tasks);

  std::vector<ScoringTask*> order_;
  FloatBuffer values_;
  FloatBuffer scores_;
  FloatBuffer reconstructions_;
  FloatBuffer contributions_;
  StreamScorer streams_;
  std::vector<StreamPart> parts_;
};

}  // namespace datasentinel
