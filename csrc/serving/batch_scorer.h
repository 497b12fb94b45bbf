#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "core/error.h"
#include "serving/float_buffer.h"
#include "serving/model_table.h"

namespace datasentinel {

/// What is to be computed; nothing else is.
struct Wanted {
  bool scores = false;
  bool reconstructions = false;
  bool contributions = false;

  bool operator==(const Wanted&) const = default;
};

/// The rows of one request, and then its answer.
struct ScoringTask {
  std::shared_ptr<const ServedModel> model;
  Wanted wanted;
  std::size_t rows = 0;
  FloatBuffer values;  ///< rows x columns, as many columns as the model has inputs.

  FloatBuffer scores;           ///< One per row, if wanted.
  FloatBuffer reconstructions;  ///< rows x columns, if wanted.
  FloatBuffer contributions;    ///< rows x columns, if wanted.
  std::optional<Error> failure;
  std::chrono::nanoseconds waited{0};  ///< In the queue; 0 for a task that was scored at once.

  void recycle() noexcept;
};

/// Scores the tasks of many requests in as few batches as possible. A bad task fails alone: its batch-mates
/// are answered as if it had not been there.
///
/// Each row's answer may differ in its last bits with the size of the batch it went through.
/// One thread at a time.
class BatchScorer {
 public:
  /// Answers every task. Never throws for a task's sake.
  void score(std::span<ScoringTask* const> tasks);

  /// Scores some rows of a task, whose first `begin` rows are scored; not for one that has failed.
  static void score_rows(ScoringTask& task, std::size_t begin, std::size_t count);

 private:
  void score_alike(std::span<ScoringTask* const> tasks);
  void score_batch(std::span<ScoringTask* const> tasks, std::size_t rows);

  std::vector<ScoringTask*> order_;
  FloatBuffer values_;
  FloatBuffer scores_;
  FloatBuffer reconstructions_;
  FloatBuffer contributions_;
};

}  // namespace datasentinel
