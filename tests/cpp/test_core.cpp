// The core without Python: arrays, scorer, pool, cores.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <numeric>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "check.h"
#include "core/dynamic_library.h"
#include "core/interval_counts.h"
#include "core/p_value.h"
#include "core/plan.h"
#include "core/pool.h"
#include "core/scorer.h"
#include "core/tensor.h"
#include "core/usable_cores.h"
#include "core/utf8.h"
#include "sum_session.h"

#if defined(__linux__)
#include <sched.h>
#endif

namespace datasentinel {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLargest = std::numeric_limits<float>::max();

void finds_the_first_non_finite_value() {
  std::vector<float> values(100, 1.0F);
  CHECK(!find_non_finite({.data = values.data(), .rows = 10, .columns = 10}));
  values[99] = std::numeric_limits<float>::max();
  values[98] = std::numeric_limits<float>::denorm_min();
  CHECK(!find_non_finite({.data = values.data(), .rows = 10, .columns = 10}));
  for (const float bad : {kNan, -kNan, kInfinity, -kInfinity}) {
    for (const std::size_t position : {std::size_t{0}, std::size_t{37}, std::size_t{99}}) {
      std::vector<float> copy = values;
      copy[position] = bad;
      const auto cell = find_non_finite({.data = copy.data(), .rows = 10, .columns = 10});
      CHECK(cell.has_value());
      CHECK(cell && cell->row == position / 10 && cell->column == position % 10);
    }
  }
  CHECK(!find_non_finite({.data = nullptr, .rows = 0, .columns = 10}));
}

void computes_the_mean_squared_error() {
  const std::vector<float> x{1, 2, 3, 4};
  const std::vector<float> y{1, 0, 3, 1};
  std::vector<float> scores(2);
  mean_squared_error({.data = x.data(), .rows = 2, .columns = 2}, y.data(), scores.data());
  CHECK(scores[0] == 2.0F);
  CHECK(scores[1] == 4.5F);
  std::vector<float> contributions(4);
  squared_error_contributions({.data = x.data(), .rows = 2, .columns = 2}, y.data(), contributions.data());
  CHECK((contributions == std::vector<float>{0, 2, 0, 4.5F}));
}

void scores_decides_and_counts() {
  Scorer scorer(std::make_shared<SumSession>(2), 3.0, {"a", "b"});
  const std::vector<float> rows{1, 2, 2, 2, 1, 1};
  std::vector<float> scores(3);
  scorer.run({.data = rows.data(), .rows = 3, .columns = 2}, {.scores = scores.data()});
  CHECK((scores == std::vector<float>{3, 4, 2}));
  CHECK(!scorer.is_anomaly(3.0F));  // Strictly above.
  CHECK(scorer.is_anomaly(std::nextafter(3.0F, 4.0F)));
  CHECK(scorer.counts().rows == 3);
  CHECK(scorer.counts().anomalies == 1);
  CHECK(scorer.counts().batches == 1);

  scorer.run({.data = nullptr, .rows = 0, .columns = 2}, {.scores = nullptr});
  CHECK(scorer.counts().batches == 1);
}

void decides_on_many_rows_as_on_each() {
  // Neither 0.1 nor 1e300 is a float32; one is rounded up.
  for (const double threshold : {0.1, 0.3, 3.0, -1e300, 1e300, static_cast<double>(kLargest)}) {
    constexpr std::size_t kRows = 9001;  // Of several blocks, and some rows more.
    Scorer scorer(std::make_shared<SumSession>(2), threshold);
    const auto at = static_cast<float>(std::clamp(threshold, -1e38, 1e38));
    std::vector<float> rows;
    for (std::size_t i = 0; i < kRows; ++i) {
      const float near = i % 3 == 0 ? at : std::nextafter(at, i % 3 == 1 ? -kLargest : kLargest);
      const bool overflows = i % 1000 == 999;
      rows.insert(rows.end(), {overflows ? kLargest : near, overflows ? kLargest : 0});
    }
    std::vector<float> scores(kRows);
    scorer.run({.data = rows.data(), .rows = kRows, .columns = 2}, {.scores = scores.data()});
    CHECK(scores[999] == kLargest);
    CHECK(std::all_of(scores.begin(), scores.end(), [](float score) { return std::isfinite(score); }));
    const auto anomalies =
        std::count_if(scores.begin(), scores.end(), [threshold](double score) { return score > threshold; });
    CHECK(scorer.counts().anomalies == static_cast<std::uint64_t>(anomalies));
  }
}

/// Counts anomalies itself, as a device does, one for each row; and may fail then.
class CountingSession final : public Session {
 public:
  explicit CountingSession(bool fails) : fails_(fails) {}
  [[nodiscard]] std::size_t input_dim() const noexcept override { return 1; }
  [[nodiscard]] std::string_view backend() const noexcept override { return "counting"; }
  [[nodiscard]] Facts facts() const override { return {}; }
  void run(ConstRows rows, Outputs outputs) override { std::copy_n(rows.data, rows.rows, outputs.scores); }
  [[nodiscard]] Findings run_checked(ConstRows rows, Outputs outputs, float highest_normal) override {
    CHECK(highest_normal == 3.0F);
    if (fails_) throw Error(ErrorCode::backend_failure, "half-way");
    run(rows, outputs);
    return {.bad = {}, .anomalies = rows.rows};
  }

 private:
  const bool fails_;
};

void takes_the_session_s_own_count() {
  const std::vector<float> rows{1, 5, 2, 3, 4, 6, 3};
  const auto check = [&rows](std::shared_ptr<Session> session, std::uint64_t anomalies) {
    Scorer scorer(std::move(session), 3.0, {}, IntervalCounts({3}));
    std::vector<float> scores(rows.size());
    scorer.run({.data = rows.data(), .rows = rows.size(), .columns = 1}, {.scores = scores.data()});
    CHECK(scores == rows);
    CHECK(scorer.counts().anomalies == anomalies);
    CHECK((scorer.score_counts() == std::vector<std::uint64_t>{4, 3}));
  };
  check(std::make_shared<CountingSession>(false), rows.size());
  Plan plan;
  plan.steps = {{.min_rows = 1, .backend = "counting"}};
  const auto planned = [&plan](bool fails) {
    return make_planned_session(
        {{"counting", std::make_shared<CountingSession>(fails)}, {"sum", std::make_shared<SumSession>(1)}},
        plan);
  };
  check(planned(false), rows.size());
  check(planned(true), 3);
}

void looks_up_p_values() {
  // Calibration scores 1, 2, 2, 3 with 2 as a tie, and the knot 1 left out.
  const PValueTable table({2, 3}, {1, 0}, 4);
  CHECK(table.p_value(-kInfinity) == 1.0);
  CHECK(table.p_value(2.0F) == 1.0);
  CHECK(table.p_value(std::nextafter(2.0F, 3.0F)) == 2.0 / 5.0);
  CHECK(table.p_value(3.0F) == 2.0 / 5.0);
  CHECK(table.p_value(std::nextafter(3.0F, 4.0F)) == 1.0 / 5.0);
  CHECK(table.p_value(std::numeric_limits<float>::max()) == 1.0 / 5.0);
  CHECK_THROWS(ErrorCode::invalid_argument, PValueTable({}, {}, 4));
  CHECK_THROWS(ErrorCode::invalid_argument, PValueTable({1, 1}, {1, 0}, 4));
  CHECK_THROWS(ErrorCode::invalid_argument, PValueTable({1, 2}, {1, 1}, 4));
  CHECK_THROWS(ErrorCode::invalid_argument, PValueTable({1}, {4}, 4));
}

void counts_scores_by_interval() {
  IntervalCounts histogram({1, 2});
  histogram.add(std::vector<float>{0, 1, 1.5F, 2, 2.5F, 100});
  histogram.add(std::vector<float>{-5});
  CHECK((histogram.counts() == std::vector<std::uint64_t>{3, 2, 2}));
  CHECK_THROWS(ErrorCode::invalid_argument, IntervalCounts({2, 1}));
  CHECK_THROWS(ErrorCode::invalid_argument, IntervalCounts({1, kNan}));
  CHECK_THROWS(ErrorCode::invalid_argument,
               IntervalCounts(std::vector<float>(IntervalCounts::kMaxEdges + 1)));

  Scorer scorer(std::make_shared<SumSession>(1), 3.0, {}, IntervalCounts({1}));
  const std::vector<float> rows{1, 2, 3};
  std::vector<float> scores(3);
  scorer.run({.data = rows.data(), .rows = 3, .columns = 1}, {.scores = scores.data()});
  CHECK((scorer.score_counts() == std::vector<std::uint64_t>{1, 2}));
  CHECK(Scorer(std::make_shared<SumSession>(1), 3.0).score_counts().empty());
}

void counts_a_sample_of_the_columns() {
  constexpr std::size_t kRows = 244;
  std::vector<float> rows;
  for (std::size_t i = 0; i < kRows; ++i) {
    rows.push_back(static_cast<float>(i));
    rows.push_back(-1.0F);
  }
  std::vector<float> scores(kRows);
  std::vector<IntervalCounts> columns;
  columns.emplace_back(std::vector<float>{60, 121, 200}, "column 0");
  columns.emplace_back(std::vector<float>{-1}, "column 1");
  Scorer scorer(std::make_shared<SumSession>(2), 1e9, {}, std::nullopt, std::move(columns));
  const auto run = [&](std::size_t first, std::size_t count) {
    scorer.run({.data = rows.data() + 2 * first, .rows = count, .columns = 2}, {.scores = scores.data()});
  };
  using Counts = std::vector<std::vector<std::uint64_t>>;
  run(0, kRows);
  CHECK((scorer.feature_counts() == Counts{{0, 0, 0, 0}, {0, 0}}));  // Nobody observes.
  scorer.observe(std::chrono::nanoseconds(0));
  for (std::size_t i = 0; i < kRows; ++i) run(i, 1);
  CHECK((scorer.feature_counts() == Counts{{61, 61, 79, 43}, {kRows, 0}}));
  run(0, 61);  // One row of a batch.
  CHECK((scorer.feature_counts() == Counts{{62, 61, 79, 43}, {kRows + 1, 0}}));
  scorer.observe(std::chrono::hours(1));
  for (int i = 0; i < 10; ++i) run(0, 61);
  CHECK((scorer.feature_counts() == Counts{{63, 61, 79, 43}, {kRows + 2, 0}}));

  CHECK(Scorer(std::make_shared<SumSession>(1), 3.0).feature_counts().empty());
  CHECK_THROWS_WITH(ErrorCode::invalid_argument, "of column 3 must be ascending",
                    IntervalCounts({2, 1}, "column 3"));
  std::vector<IntervalCounts> too_many;
  for (int i = 0; i < 2; ++i) too_many.emplace_back(std::vector<float>{1});
  CHECK_THROWS(ErrorCode::invalid_argument,
               Scorer(std::make_shared<SumSession>(1), 3.0, {}, std::nullopt, std::move(too_many)));
}

void keeps_some_of_the_rows_scored_last() {
  Scorer scorer(std::make_shared<SumSession>(2), 10.0);
  std::vector<float> rows{1, 2, 30, 40, 50, 60};
  std::vector<float> scores(3);
  const auto score = [&] {
    scorer.run({.data = rows.data(), .rows = 3, .columns = 2}, {.scores = scores.data()});
  };
  scorer.observe();
  score();
  CHECK(scorer.recent_rows(0).empty());  // Nobody asked for any.

  scorer.keep_recent_rows(std::chrono::hours(1));
  for (int i = 0; i < 100; ++i) score();
  const auto kept = scorer.recent_rows(0);
  CHECK(!kept.empty() && kept.size() <= 2);  // One of either kind an hour.
  const auto anomaly = std::find_if(kept.begin(), kept.end(), [](const auto& row) { return row.is_anomaly; });
  CHECK(anomaly != kept.end());
  CHECK((anomaly->values == std::vector<float>{30, 40}) && anomaly->score == 70.0F);  // The first of a batch.
  CHECK(scorer.recent_rows(kept.back().time_ns).empty());

  scorer.keep_recent_rows(std::chrono::nanoseconds(0));
  for (int i = 0; i < 1000; ++i) score();
  const auto bounded = scorer.recent_rows(0);
  CHECK(bounded.size() == 256);  // 128 of either kind.
  CHECK(std::is_sorted(bounded.begin(), bounded.end(),
                       [](const auto& a, const auto& b) { return a.time_ns < b.time_ns; }));
  for (const auto& row : bounded) {
    CHECK(row.is_anomaly == (row.score > 10.0F));
    CHECK(row.values[0] + row.values[1] == row.score);
  }
}

void observes_batches_and_times() {
  Scorer scorer(std::make_shared<SumSession>(1), 10.0);
  CHECK(scorer.histograms() == nullptr);
  const std::vector<float> rows{1, 10, 10.5F, 2000};
  std::vector<float> scores(4);
  scorer.run({.data = rows.data(), .rows = 4, .columns = 1}, {.scores = scores.data()});
  scorer.observe();
  CHECK(scorer.histograms()->batch_rows.values().counts[0] == 0);
  scorer.run({.data = rows.data(), .rows = 4, .columns = 1}, {.scores = scores.data()});
  scorer.run({.data = rows.data(), .rows = 1, .columns = 1}, {.scores = scores.data()});

  const auto& all = *scorer.histograms();
  const auto batches = all.batch_rows.values();
  CHECK(batches.counts[0] == 1);  // One row,
  CHECK(batches.counts[2] == 1);  // and four.
  CHECK(batches.sum == 5);
  const auto times = all.compute_s.values();
  CHECK(std::accumulate(times.counts.begin(), times.counts.end(), std::uint64_t{0}) == 2);
  CHECK(times.sum > 0);
}

void refuses_bad_rows_by_position_and_name() {
  Scorer scorer(std::make_shared<SumSession>(2), 0.0, {"temperature", "pressure"});
  const std::vector<float> rows{1, 2, 3, kNan};
  std::vector<float> scores(2);
  CHECK_THROWS_WITH(ErrorCode::invalid_argument, "row 1, column 1 ('pressure')",
                    scorer.run({.data = rows.data(), .rows = 2, .columns = 2}, {.scores = scores.data()}));
  CHECK_THROWS_WITH(ErrorCode::invalid_argument, "expected 2 values per row, got 4",
                    scorer.run({.data = rows.data(), .rows = 1, .columns = 4}, {.scores = scores.data()}));
  CHECK(scorer.counts().rows == 0);
  CHECK_THROWS(ErrorCode::invalid_argument, Scorer(std::make_shared<SumSession>(2), std::nan("")));
  CHECK_THROWS(ErrorCode::invalid_argument, Scorer(std::make_shared<SumSession>(2), 0.0, {"one"}));
}

void saturates_a_score_that_overflows() {
  Scorer scorer(std::make_shared<SumSession>(2), 3.0);
  const float huge = std::numeric_limits<float>::max();
  const std::vector<float> rows{huge, huge};
  float score = 0;
  scorer.run({.data = rows.data(), .rows = 1, .columns = 2}, {.scores = &score});
  CHECK(score == huge);
  CHECK(scorer.counts().anomalies == 1);
}

void a_pool_never_lends_one_object_twice() {
  struct Guarded {
    std::atomic<int> users{0};
  };
  Pool<Guarded> pool([] { return std::make_unique<Guarded>(); });
  std::atomic<int> clashes{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int turn = 0; turn < 20000; ++turn) {
        const auto loan = pool.borrow();
        if (loan->users.fetch_add(1) != 0) clashes.fetch_add(1);
        loan->users.fetch_sub(1);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK(clashes == 0);
}

void a_thread_s_affinity_limits_its_cores() {
  const unsigned all = usable_cores();
  CHECK(all >= 1);
  CHECK(all <= std::max(std::thread::hardware_concurrency(), 1U));
#if defined(__linux__)
  std::thread([] {
    cpu_set_t mask;
    CHECK(sched_getaffinity(0, sizeof mask, &mask) == 0);
    int core = 0;
    while (!CPU_ISSET(core, &mask)) ++core;
    CPU_ZERO(&mask);
    CPU_SET(core, &mask);
    CHECK(sched_setaffinity(0, sizeof mask, &mask) == 0);
    CHECK(usable_cores() == 1);
  }).join();
#endif
}

void a_quota_counts_cores_that_are_begun() {
  const auto cores = [](const std::string& cpu_max) {
    std::istringstream file(cpu_max);
    return quota_of(file, 64);
  };
  CHECK(cores("100000 100000\n") == 1 && cores("300000 100000\n") == 3 && cores("20000 100000\n") == 1);
  CHECK(cores("100050 100000\n") == 2 && cores("210000 100000\n") == 3);
  CHECK(cores("9900000 100000\n") == 64 && cores("max 100000\n") == 64 && cores("") == 64);
}

/// `code` in so many bytes, fewer than which may do.
std::string in_bytes(unsigned code, std::size_t length) {
  std::string text;
  for (std::size_t i = 1; i < length; ++i, code >>= 6U)
    text.insert(text.begin(), char(0x80U | (code & 0x3FU)));
  const unsigned lead = length == 1 ? 0 : 0xFFU << (8 - length) & 0xFFU;
  text.insert(text.begin(), char(lead | code));
  return text;
}

void text_is_utf8_in_the_fewest_bytes_and_without_surrogates() {
  CHECK(is_utf8("") && is_utf8("plain") && !is_utf8("\xFF") && !is_utf8("\xF8\x88\x80\x80\x80"));
  constexpr unsigned kFirstOfLength[] = {0, 0, 0x80, 0x800, 0x10000, 0x200000};
  for (const unsigned edge : {0x0U, 0x80U, 0x800U, 0x1000U, 0xD000U, 0xD800U, 0xE000U, 0x10000U, 0x40000U,
                              0x100000U, 0x110000U, 0x140000U, 0x1FFFFFU}) {
    for (const unsigned code : {edge - (edge == 0 ? 0 : 1), edge}) {
      const bool exists = code <= 0x10FFFF && (code < 0xD800 || code > 0xDFFF);
      for (std::size_t length = 1; length <= 4; ++length) {
        if (code >= kFirstOfLength[length + 1]) continue;
        const std::string text = in_bytes(code, length);
        const bool valid = exists && code >= kFirstOfLength[length];
        CHECK(is_utf8(text) == valid);
        CHECK(is_utf8("a" + text + "z") == valid);
        for (std::size_t i = 1; i < length; ++i) {
          CHECK(!is_utf8(text.substr(0, i)) && !is_utf8(text.substr(i)));
          CHECK(!is_utf8(text.substr(0, i) + 'a' + text.substr(i + 1)));
        }
      }
    }
  }
}

void a_missing_library_says_which() {
  CHECK_THROWS_WITH(ErrorCode::unavailable, "/nowhere/libnothing.so",
                    DynamicLibrary("/nowhere/libnothing.so"));
}

}  // namespace
}  // namespace datasentinel

int main() {
  using namespace datasentinel;
  finds_the_first_non_finite_value();
  computes_the_mean_squared_error();
  scores_decides_and_counts();
  decides_on_many_rows_as_on_each();
  takes_the_session_s_own_count();
  looks_up_p_values();
  counts_scores_by_interval();
  counts_a_sample_of_the_columns();
  keeps_some_of_the_rows_scored_last();
  observes_batches_and_times();
  refuses_bad_rows_by_position_and_name();
  saturates_a_score_that_overflows();
  a_pool_never_lends_one_object_twice();
  a_thread_s_affinity_limits_its_cores();
  a_quota_counts_cores_that_are_begun();
  text_is_utf8_in_the_fewest_bytes_and_without_surrogates();
  a_missing_library_says_which();
  return check::result();
}
