#include "core/scorer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "core/error.h"

namespace datasentinel {
namespace {

/// The input is finite, so only overflow leads to another number: further from normal than float32 can say.
float made_finite(float value) noexcept {
  return std::isfinite(value) ? value : std::numeric_limits<float>::max();
}

/// The highest float32 that is not above a finite threshold.
float highest_not_above(double threshold) noexcept {
  constexpr float kLargest = std::numeric_limits<float>::max();
  if (threshold >= kLargest) return kLargest;
  if (threshold < -kLargest) return -std::numeric_limits<float>::infinity();
  const auto nearest = static_cast<float>(threshold);
  return nearest > threshold ? std::nextafter(nearest, -kLargest) : nearest;
}

/// Any row of a batch, so that none has a fixed place in a sample (Steele et al., "Fast splittable
/// pseudorandom number generators", 2014, for the mixing).
std::size_t any_row(std::uint64_t rows_before, std::size_t rows) noexcept {
  std::uint64_t mixed = rows_before + 0x9E3779B97F4A7C15;
  mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9;
  mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB;
  return (mixed ^ (mixed >> 31)) % rows;
}

constexpr std::size_t kRecentBytes = std::size_t{256} << 10;
constexpr std::size_t kMaxRecentRows = 128;

}  // namespace

Scorer::Scorer(std::shared_ptr<Session> session, double threshold, std::vector<std::string> feature_names,
               std::optional<IntervalCounts> histogram, std::vector<IntervalCounts> features,
               std::size_t warm_up_rows)
    : session_(std::move(session)),
      threshold_(threshold),
      highest_normal_(highest_not_above(threshold)),
      feature_names_(std::move(feature_names)),
      histogram_(std::move(histogram)),
      features_(std::move(features)),
      warm_up_rows_(warm_up_rows) {
  if (!std::isfinite(threshold)) {
    throw Error(ErrorCode::invalid_argument, "threshold must be finite, got " + std::to_string(threshold));
  }
  if (!feature_names_.empty() && feature_names_.size() != input_dim()) {
    throw Error(ErrorCode::invalid_argument, "got " + std::to_string(feature_names_.size()) +
                                                 " feature names for a model of " +
                                                 std::to_string(input_dim()) + " inputs");
  }
  if (!features_.empty() && features_.size() != input_dim()) {
    throw Error(ErrorCode::invalid_argument, "got histograms of " + std::to_string(features_.size()) +
                                                 " columns for a model of " + std::to_string(input_dim()) +
                                                 " inputs");
  }
}

std::string Scorer::feature_name(std::size_t column) const {
  return feature_names_.empty() ? std::string("x").append(std::to_string(column)) : feature_names_[column];
}

std::string Scorer::describe_column(std::size_t column) const {
  std::string text = "column " + std::to_string(column);
  if (!feature_names_.empty()) text += " ('" + feature_names_[column] + "')";
  return text;
}

Scorer::Counts Scorer::counts() const noexcept {
  return {.rows = rows_.load(std::memory_order_relaxed),
          .anomalies = anomalies_.load(std::memory_order_relaxed),
          .batches = batches_.load(std::memory_order_relaxed)};
}

std::vector<std::uint64_t> Scorer::score_counts() const {
  return histogram_ ? histogram_->counts() : std::vector<std::uint64_t>();
}

std::vector<std::vector<std::uint64_t>> Scorer::feature_counts() const {
  std::vector<std::vector<std::uint64_t>> counts;
  counts.reserve(features_.size());
  for (const IntervalCounts& feature : features_) counts.push_back(feature.counts());
  return counts;
}

void Scorer::run(ConstRows rows, Outputs outputs) {
  if (state_dim() != 0) {
    throw Error(ErrorCode::unsupported_model,
                "this model keeps a state for each stream (config.json: key 'state'), so its rows cannot be "
                "scored one by one");
  }
  check_width(rows);
  score(
      rows, outputs, [&] { return session_->run_checked(rows, outputs, highest_normal_); },
      [](std::size_t) { return false; });
}

void Scorer::step(ConstRows rows, float* states, Outputs outputs) {
  require_memory();
  check(rows);
  score(
      rows, outputs,
      [&] {
        session_->step(rows, {.before = states, .after = states}, outputs);
        return Session::Findings();
      },
      [&](std::size_t row) { return is_warming(states + row * state_dim()); });
}

std::size_t Scorer::scan(ConstRows rows, float* state, Outputs outputs, const float* extra_steps) {
  require_memory();
  check(rows);
  std::size_t warming = 0;
  const auto call = [&] {
    const States states{.before = state, .after = state};
    for (std::size_t i = 0; i < rows.rows; ++i) {
      const ConstRows row{.data = rows.row(i), .rows = 1, .columns = rows.columns};
      if (extra_steps != nullptr) state[state_dim() - 2] = extra_steps[i];
      session_->step(row, states, outputs.from_row(i, rows.columns));
      warming += static_cast<std::size_t>(is_warming(state));
    }
    return Session::Findings();
  };
  score(rows, outputs, call, [&](std::size_t row) { return row < warming; });
  return warming;
}

void Scorer::require_memory() const {
  if (state_dim() == 0) throw Error(ErrorCode::unsupported_model, "this model has no memory of streams");
}

void Scorer::check_width(ConstRows rows) const {
  if (rows.columns != input_dim()) {
    throw Error(ErrorCode::invalid_argument, "expected " + std::to_string(input_dim()) +
                                                 " values per row, got " + std::to_string(rows.columns));
  }
}

void Scorer::refuse(Cell cell, std::string_view where) const {
  throw Error(ErrorCode::invalid_argument, "non-finite value at row " + std::to_string(cell.row) + ", " +
                                               describe_column(cell.column) + std::string(where));
}

void Scorer::check(ConstRows rows) const {
  check_width(rows);
  if (const auto cell = find_non_finite(rows)) refuse(*cell);
}

std::uint64_t Scorer::judge(std::span<float> scores) const noexcept {
  // A plain loop over 32-bit numbers, which the compiler turns into vector code; scores are hardly ever
  // written.
  constexpr std::size_t kBlock = 4096;
  constexpr float kLargest = std::numeric_limits<float>::max();
  std::uint64_t anomalies = 0;
  for (std::size_t first = 0; first < scores.size(); first += kBlock) {
    const std::span<float> block = scores.subspan(first, std::min(kBlock, scores.size() - first));
    std::uint32_t above = 0;
    std::uint32_t finite = 0;
    for (const float score : block) {
      above += static_cast<std::uint32_t>(score > highest_normal_);
      finite += static_cast<std::uint32_t>(std::fabs(score) <= kLargest);
    }
    if (finite != block.size()) {
      std::transform(block.begin(), block.end(), block.begin(), made_finite);
      above = static_cast<std::uint32_t>(
          std::count_if(block.begin(), block.end(), [this](float score) { return is_anomaly(score); }));
    }
    anomalies += above;
  }
  return anomalies;
}

template <typename Call, typename IsWarming>
void Scorer::score(ConstRows rows, Outputs outputs, Call call, IsWarming is_warming) {
  if (rows.rows == 0) return;
  const Clock::time_point started = histograms_ ? Clock::now() : Clock::time_point();
  const Session::Findings found = call();
  if (found.bad) refuse(*found.bad);
  const Clock::time_point finished = histograms_ ? Clock::now() : started;
  const std::chrono::duration<double> compute = finished - started;
  if (outputs.contributions != nullptr) {
    std::transform(outputs.contributions, outputs.contributions + rows.size(), outputs.contributions,
                   made_finite);
  }
  if (outputs.scores == nullptr) return record(rows.rows, compute.count());

  std::uint64_t anomalies = found.anomalies.value_or(0);
  for (std::size_t first = 0, end = 0; first < rows.rows; first = end) {
    const bool warming = is_warming(first);
    for (end = first + 1; end < rows.rows && is_warming(end) == warming;) ++end;
    if (warming) {
      std::transform(outputs.scores + first, outputs.scores + end, outputs.scores + first, made_finite);
      continue;
    }
    const std::span<float> scores(outputs.scores + first, end - first);
    if (!found.anomalies) anomalies += judge(scores);
    if (histogram_) histogram_->add(scores);
  }
  const std::uint64_t rows_before = rows_.fetch_add(rows.rows, std::memory_order_relaxed);
  batches_.fetch_add(1, std::memory_order_relaxed);
  if (anomalies != 0) anomalies_.fetch_add(anomalies, std::memory_order_relaxed);
  if (histograms_ && !features_.empty()) sample(rows, any_row(rows_before, rows.rows), finished);
  if (recent_) {
    const auto is_anomalous = [&](std::size_t i) { return !is_warming(i) && is_anomaly(outputs.scores[i]); };
    recent_->offer(rows, outputs.scores, any_row(rows_before, rows.rows), anomalies, is_anomalous, finished);
  }
  record(rows.rows, compute.count());
}

void Scorer::sample(ConstRows rows, std::size_t index, Clock::time_point now) noexcept {
  Clock::time_point due = next_sample_.load(std::memory_order_relaxed);
  if (now < due) return;
  // Another thread may have been quicker; then its row is the sample.
  if (!next_sample_.compare_exchange_strong(due, now + sample_interval_, std::memory_order_relaxed)) return;
  const float* const row = rows.row(index);
  for (std::size_t column = 0; column < features_.size(); ++column) features_[column].add(row[column]);
}

void Scorer::keep_recent_rows(std::chrono::nanoseconds interval) {
  const std::size_t fitting = kRecentBytes / (input_dim() * sizeof(float));
  recent_ = std::make_unique<RecentRows>(input_dim(), interval,
                                         std::clamp<std::size_t>(fitting, 4, kMaxRecentRows));
}

std::vector<RecentRows::Row> Scorer::recent_rows(std::int64_t after_ns) const {
  return recent_ ? recent_->after(after_ns) : std::vector<RecentRows::Row>();
}

void Scorer::record(std::size_t rows, double compute_s) noexcept {
  if (!histograms_) return;
  histograms_->batch_rows.add(static_cast<double>(rows));
  histograms_->compute_s.add(compute_s);
}

}  // namespace datasentinel
