#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/backend.h"
#include "core/histogram.h"
#include "core/interval_counts.h"
#include "core/recent_rows.h"
#include "core/tensor.h"

namespace datasentinel {

/// The one door through which the API and every protocol see a model: rows in, scores and decisions out.
/// It validates, scores and counts, so that every caller is treated alike.
///
/// Thread-safe.
class Scorer {
 public:
  struct Counts {
    std::uint64_t rows = 0;       ///< Rows scored.
    std::uint64_t anomalies = 0;  ///< Of those, rows above the threshold.
    std::uint64_t batches = 0;    ///< Calls that scored at least one row.
  };

  /// `threshold` must be finite; `feature_names` are for messages: none, or one per column; `histogram`,
  /// where given, counts the scores; `features`, none or one per column, a sample of the rows from `observe`
  /// on; `warm_up_rows` is for a model with memory: how many rows at the beginning of a stream are never
  /// anomalies. Throws Error{invalid_argument}.
  Scorer(std::shared_ptr<Session> session, double threshold, std::vector<std::string> feature_names = {},
         std::optional<IntervalCounts> histogram = std::nullopt, std::vector<IntervalCounts> features = {},
         std::size_t warm_up_rows = 0);

  [[nodiscard]] std::size_t input_dim() const noexcept { return session_->input_dim(); }
  [[nodiscard]] double threshold() const noexcept { return threshold_; }
  /// The feature's name; "x0", "x1", ... where the model has no names.
  [[nodiscard]] std::string feature_name(std::size_t column) const;
  /// How a message names a column: "column 3", with the feature's name where there is one.
  [[nodiscard]] std::string describe_column(std::size_t column) const;
  [[nodiscard]] const Session& session() const noexcept { return *session_; }
  [[nodiscard]] Counts counts() const noexcept;
  /// Scores by interval of the histogram; empty without one.
  [[nodiscard]] std::vector<std::uint64_t> score_counts() const;

  /// Sampled values by column and interval since `observe`; empty without histograms of features.
  [[nodiscard]] std::vector<std::vector<std::uint64_t>> feature_counts() const;

  /// From now on, keep histograms, which takes some 20 ns a call, and count the columns of a row at most
  /// every `sample_interval`, which takes some 20 ns a column. Before the scorer is shared.
  void observe(std::chrono::nanoseconds sample_interval = kSampleInterval) {
    histograms_ = std::make_unique<ScoringHistograms>();
    sample_interval_ = sample_interval;
  }
  /// From now on, keep some of the rows scored last; after `observe`, and before the scorer is shared.
  void keep_recent_rows(std::chrono::nanoseconds interval = kRecentInterval);
  static constexpr std::chrono::nanoseconds kRecentInterval = std::chrono::milliseconds(20);
  /// Those scored later than that, in ns since the epoch; none where they are not kept.
  [[nodiscard]] std::vector<RecentRows::Row> recent_rows(std::int64_t after_ns) const;
  static constexpr std::chrono::nanoseconds kSampleInterval = std::chrono::milliseconds(1);
  /// Null unless observed.
  [[nodiscard]] const ScoringHistograms* histograms() const noexcept { return histograms_.get(); }

  /// The decision: strictly above the threshold.
  [[nodiscard]] bool is_anomaly(float score) const noexcept { return score > threshold_; }

  /// Scores `rows`. Throws Error{invalid_argument} for a wrong width or a non-finite value (naming row and
  /// column). Scores are always finite: a row so extreme that it overflows the model's float32 arithmetic
  /// gets the largest float32, so it stays above every threshold; likewise the contributions that overflow.
  ///
  /// Refuses a model with memory, whose rows mean nothing without the state of their stream.
  void run(ConstRows rows, Outputs outputs);

  [[nodiscard]] std::size_t state_dim() const noexcept { return session_->state_dim(); }

  [[nodiscard]] std::size_t warm_up_rows() const noexcept { return warm_up_rows_; }

  /// Whether the last row that a stream in this state has seen is one of its first: a state ends with the
  /// number of rows seen, or how many usual steps they took.
  [[nodiscard]] bool is_warming(const float* state) const noexcept {
    return state[state_dim() - 1] < static_cast<float>(warm_up_rows_) + 1;
  }

  /// Throws Error{invalid_argument} for rows that `run`, `step` and `scan` refuse.
  void check(ConstRows rows) const;

  /// Throws Error{invalid_argument} for a value that is not finite; `where` follows its place.
  [[noreturn]] void refuse(Cell cell, std::string_view where = {}) const;

  /// As `run` for rows of as many streams; `states`, one a row, are brought up to date.
  void step(ConstRows rows, float* states, Outputs outputs);

  /// As `run` for the rows of one stream, one after the other; `state` is brought up to date. Where
  /// `extra_steps` is not null, the state's last value but one is each of these in turn: see `StreamRules`.
  /// Returns how many of the rows are warming: they are the first ones.
  std::size_t scan(ConstRows rows, float* state, Outputs outputs, const float* extra_steps = nullptr);

 private:
  using Clock = std::chrono::steady_clock;

  /// Makes scores finite. Returns how many are anomalies.
  std::uint64_t judge(std::span<float> scores) const noexcept;
  /// Scores by `call`, which returns what it has found, and counts; a row that `is_warming` counts as no
  /// anomaly, and its score not.
  template <typename Call, typename IsWarming>
  void score(ConstRows rows, Outputs outputs, Call call, IsWarming is_warming);
  void require_memory() const;
  void check_width(ConstRows rows) const;
  void sample(ConstRows rows, std::size_t index, Clock::time_point now) noexcept;
  void record(std::size_t rows, double compute_s) noexcept;

  std::shared_ptr<Session> session_;
  double threshold_;
  float highest_normal_;  ///< The highest score that is not an anomaly.
  std::vector<std::string> feature_names_;
  std::optional<IntervalCounts> histogram_;
  std::vector<IntervalCounts> features_;
  std::size_t warm_up_rows_;
  std::atomic<std::uint64_t> rows_{0};
  std::atomic<std::uint64_t> anomalies_{0};
  std::atomic<std::uint64_t> batches_{0};
  std::unique_ptr<ScoringHistograms> histograms_;
  std::unique_ptr<RecentRows> recent_;
  std::chrono::nanoseconds sample_interval_{0};
  std::atomic<Clock::time_point> next_sample_{Clock::time_point::min()};
};

}  // namespace datasentinel
