// Models with memory: the states of streams, and the scoring of many streams at once.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "check.h"
#include "running_mean_session.h"
#include "serving/state_store.h"
#include "serving/stream_scorer.h"

namespace datasentinel {
namespace {

constexpr std::size_t kWarmUp = 3;
const StreamRules kRules{.warm_up_rows = kWarmUp};

void write(StateStore& store, std::string_view stream, float value, float seen = 1) {
  const float state[] = {value, seen};
  store.write({&stream, 1}, kRules, state);
}

float read(const StateStore& store, std::string_view stream) {
  float state[2];
  store.read(stream, state);
  return state[0];
}

void the_stream_used_least_recently_goes_first() {
  StateStore store(2, 0, {.max_streams = 3});
  for (const char* stream : {"a", "b", "c"}) write(store, stream, 1);
  write(store, "a", 2);
  write(store, "d", 4);
  CHECK(store.size() == 3 && store.evicted() == 1);
  CHECK(!store.contains("b") && read(store, "b") == 0);
  CHECK(read(store, "a") == 2 && read(store, "c") == 1 && read(store, "d") == 4);
  CHECK(store.forget("c") && !store.forget("c"));
  CHECK(store.size() == 2 && store.evicted() == 1);
  write(store, "e", 5);
  CHECK(store.size() == 3 && store.evicted() == 1);
  CHECK_THROWS(ErrorCode::invalid_argument, StateStore(0, 0, {}));
  CHECK_THROWS(ErrorCode::invalid_argument, StateStore(1, 0, {.max_streams = 0}));
  CHECK_THROWS(ErrorCode::invalid_argument, StateStore(1, 0, {}).require_fit({.row_s = 10}, 1));
}

void memory_is_bounded_whatever_the_ids() {
  StateStore store(100, 0, {.max_streams = 1000, .max_bytes = 64 << 10});
  const std::vector<float> state(100, 1.0F);
  for (std::size_t i = 0; i < 500; ++i) {
    const std::string stream = std::to_string(i) + std::string(i, 'x');
    const std::string_view view = stream;
    store.write({&view, 1}, kRules, state.data());
    CHECK(store.bytes() <= 64 << 10);
  }
  CHECK(store.size() > 30 && store.evicted() == 500 - store.size());
  CHECK(store.contains(std::to_string(499) + std::string(499, 'x')));
}

void warming_streams_are_counted() {
  StateStore store(2, 0, {.max_streams = 2});
  write(store, "a", 1, 3);
  write(store, "b", 1, 4);
  CHECK(store.warming() == 1);
  write(store, "a", 1, 4);
  CHECK(store.warming() == 0);
  write(store, "c", 1, 1);  // In place of b.
  CHECK(store.warming() == 1);
  CHECK(store.forget("c") && store.warming() == 0);
}

void pages_hold_all_streams_that_last() {
  StateStore store(2, 0, {.max_streams = 10});
  for (int i = 0; i < 7; ++i) write(store, "s" + std::to_string(i), static_cast<float>(i));
  write(store, std::string_view("\0connection", 11), 9);
  write(store, "s2", 20);
  std::vector<std::pair<std::uint64_t, std::string>> by_use;
  std::map<std::string, std::vector<float>> states;
  std::size_t place = 0;
  for (bool more = true; more;) {
    StatePage page;
    more = store.copy(place, 3, page);
    for (std::size_t i = 0; i < page.streams.size(); ++i) {
      by_use.emplace_back(page.last_used[i], page.streams[i]);
      states[page.streams[i]] = {page.records[2 * i], page.records[2 * i + 1]};
    }
  }
  CHECK(states.size() == 7 && states["s2"][0] == 20 && states["s6"][0] == 6);
  std::ranges::sort(by_use, std::greater());
  CHECK(by_use.front().second == "s2" && by_use.back().second == "s0");

  StateStore other(2, 0, {.max_streams = 4});
  write(other, "s5", 55);
  write(other, "new", 1);
  std::vector<std::string> streams;
  std::vector<float> values;
  for (const auto& [use, stream] : by_use) {
    streams.push_back(stream);
    values.insert(values.end(), states[stream].begin(), states[stream].end());
  }
  CHECK(other.insert(streams, kRules, values.data()) == 2);
  CHECK(read(other, "s5") == 55 && other.contains("s2") && other.contains("s6") && other.evicted() == 0);
  write(other, "newer", 2);
  CHECK(!other.contains("s6") && other.contains("s2"));
}

/// What one stream after the other says, by the definition.
class Reference {
 public:
  float next(const std::string& stream, float sum, double time_s) {
    double& last_s = last_s_.try_emplace(stream, kUnknown).first->second;
    if (time_s - last_s > kGapS) states_.erase(stream);
    last_s = time_s;
    auto& [total, seen] = states_[stream];
    const float score = sum - (seen == 0 ? 0 : total / seen);
    total += sum;
    seen += 1;
    return score;
  }
  [[nodiscard]] bool is_warming(const std::string& stream) const {
    return states_.at(stream).second <= static_cast<float>(kWarmUp);
  }
  void forget(const std::string& stream) {
    states_.erase(stream);
    last_s_.erase(stream);
  }

  static constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();
  static constexpr double kGapS = 10;

 private:
  std::map<std::string, double> last_s_;
  std::map<std::string, std::pair<float, float>> states_;
};

std::shared_ptr<Scorer> make_scorer(std::size_t columns = 1) {
  return std::make_shared<Scorer>(std::make_shared<RunningMeanSession>(columns), 5.0,
                                  std::vector<std::string>(), std::nullopt, std::vector<IntervalCounts>(),
                                  kWarmUp);
}

void interleaved_streams_score_as_each_does_alone() {
  std::mt19937 random(7);
  const auto below = [&random](std::size_t end) {
    return std::uniform_int_distribution<std::size_t>(0, end - 1)(random);
  };
  const auto scorer = make_scorer();
  StateStore store(2, 0, {});
  const StreamRules rules{.warm_up_rows = kWarmUp, .gap_s = Reference::kGapS};
  StreamScorer streams;
  Reference reference;
  std::uint64_t warming_rows = 0;
  double now_s = 1.7e9;
  for (int round = 0; round < 300; ++round) {
    struct Asked {
      std::string stream;
      std::vector<float> rows, scores, expected;
      std::vector<std::uint8_t> warming, expected_warming;
      std::vector<double> times_s;  // Empty where they are not told.
      bool starts, ends;
    };
    std::vector<Asked> asked(1 + below(12));
    for (Asked& one : asked) {
      one.stream = "stream " + std::to_string(below(5));
      one.rows.resize(below(4) == 0 ? below(9) : 1);
      for (float& value : one.rows) value = static_cast<float>(below(100));
      one.scores.resize(one.rows.size());
      one.warming.resize(one.rows.size());
      if (below(3) != 0) one.times_s.resize(one.rows.size());
      for (double& time_s : one.times_s) {
        now_s += below(12) == 0 ? 20 : 0.5;
        time_s = now_s;
      }
      one.starts = below(8) == 0;
      one.ends = below(8) == 0;
    }
    std::vector<StreamPart> parts;
    for (Asked& one : asked) {
      parts.push_back({.stream = one.stream,
                       .rows = one.rows.data(),
                       .count = one.rows.size(),
                       .outputs = {.scores = one.scores.data()},
                       .warming = one.warming.data(),
                       .times_s = one.times_s.empty() ? nullptr : one.times_s.data(),
                       .starts = one.starts,
                       .ends = one.ends});
      if (one.rows.empty()) continue;
      if (one.starts) reference.forget(one.stream);
      for (std::size_t i = 0; i < one.rows.size(); ++i) {
        const double time_s = one.times_s.empty() ? Reference::kUnknown : one.times_s[i];
        one.expected.push_back(reference.next(one.stream, one.rows[i], time_s));
        one.expected_warming.push_back(static_cast<std::uint8_t>(reference.is_warming(one.stream)));
        warming_rows += one.expected_warming.back();
      }
      if (one.ends) reference.forget(one.stream);
    }
    streams.score(*scorer, rules, store, parts);
    for (const Asked& one : asked) {
      CHECK(one.scores == one.expected);
      CHECK(one.warming == one.expected_warming);
    }
  }
  CHECK(warming_rows > 100);
}

void a_fault_leaves_every_stream_as_it_was() {
  const auto scorer = make_scorer();
  StateStore store(2, 0, {});
  StreamScorer streams;
  float scores[3] = {};
  const float good[] = {1, 2, 3};
  const auto parts_of = [&scores](const float* rows) {
    return std::vector<StreamPart>{
        {.stream = "a", .rows = rows, .count = 2, .outputs = {.scores = scores}},
        {.stream = "b", .rows = rows + 2, .count = 1, .outputs = {.scores = scores + 2}}};
  };
  streams.score(*scorer, kRules, store, parts_of(good));
  const float before = read(store, "a");
  const float broken[] = {1, RunningMeanSession::kFault, 3};
  CHECK_THROWS(ErrorCode::backend_failure, streams.score(*scorer, kRules, store, parts_of(broken)));
  const float nan[] = {1, 2, std::numeric_limits<float>::quiet_NaN()};
  CHECK_THROWS_WITH(ErrorCode::invalid_argument, "column 0",
                    streams.score(*scorer, kRules, store, parts_of(nan)));
  CHECK(read(store, "a") == before && read(store, "b") == 3);
  streams.score(*scorer, kRules, store, parts_of(good));
  CHECK(read(store, "a") == 2 * before);
}

void values_that_are_missing_are_carried_unless_scoring_fails() {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  Scorer scorer(std::make_shared<RunningMeanSession>(2), 5.0, {}, std::nullopt, {}, kWarmUp);
  const StreamRules rules{.warm_up_rows = kWarmUp, .carry = {.first = {10, 20}, .stale_rows = 1}};
  StateStore store(2, rules.carry.size(), {});
  CHECK(store.record_size() == 6);
  StreamScorer streams;
  std::vector<float> rows = {kNan, 1, 2, kNan, kNan, kNan};
  const auto part = [&](std::string_view stream, std::size_t first, std::size_t count) {
    float* const at = rows.data() + 2 * first;
    return StreamPart{.stream = stream, .rows = at, .count = count, .to_fill = at};
  };
  const StreamPart both[] = {part("a", 0, 2), part("b", 2, 1)};
  streams.score(scorer, rules, store, both);
  CHECK((rows == std::vector<float>{10, 1, 2, 1, 10, 20}));
  rows = {kNan, kNan, kNan, 3, RunningMeanSession::kFault, 0};
  const StreamPart failing[] = {part("a", 0, 2), part("b", 2, 1)};
  CHECK_THROWS(ErrorCode::backend_failure, streams.score(scorer, rules, store, failing));
  CHECK(std::isnan(rows[0]) && std::isnan(rows[1]) && std::isnan(rows[2]) && rows[3] == 3);
  streams.score(scorer, rules, store, std::span(failing).first(1));
  CHECK((std::vector<float>(rows.begin(), rows.begin() + 4) == std::vector<float>{2, 1, 2, 3}));
  CHECK(store.stale() == 1 && store.stale_rows() == 2);
  CHECK((store.stale_columns("a", rules.carry) == std::vector<std::size_t>{0}));
  // A page takes along what is carried.
  StatePage page;
  std::size_t place = 0;
  while (store.copy(place, 10, page)) {
  }
  StateStore other(2, rules.carry.size(), {});
  CHECK(other.insert(page.streams, rules, page.records.data()) == 2);
  CHECK(other.stale() == 1 && other.warming() == store.warming());
}

void rules_that_carry_more_or_less_than_there_is_room_for_are_refused() {
  const StreamRules carrying{.carry = {.first = std::vector<float>(100, 1.0F), .stale_rows = 1}};
  const std::vector<std::string> streams = {"a"};
  const std::vector<float> record(2 + carrying.carry.size(), 1.0F);
  StateStore without(2, 0, {});
  StateStore with(2, carrying.carry.size(), {});
  CHECK_THROWS_WITH(ErrorCode::invalid_argument, "carried for 100 columns",
                    without.insert(streams, carrying, record.data()));
  CHECK_THROWS_WITH(ErrorCode::invalid_argument, "room for those of 100",
                    with.insert(streams, kRules, record.data()));
  CHECK(without.size() == 0 && with.size() == 0);
  CHECK(without.insert(streams, kRules, record.data()) == 1);
  CHECK_THROWS_WITH(ErrorCode::invalid_argument, "carried for 100 columns",
                    without.stale_columns("a", carrying.carry));
}

/// Scores a row by the extra steps that its state was given.
class Steps final : public Session {
 public:
  [[nodiscard]] std::size_t input_dim() const noexcept override { return 1; }
  [[nodiscard]] std::size_t state_dim() const noexcept override { return 2; }
  [[nodiscard]] std::string_view backend() const noexcept override { return "steps"; }
  [[nodiscard]] Facts facts() const override { return {}; }
  void run(ConstRows, Outputs) override {}
  void step(ConstRows rows, States states, Outputs outputs) override {
    for (std::size_t i = 0; i < rows.rows; ++i) {
      outputs.scores[i] = states.before[2 * i];
      states.after[2 * i + 1] = states.before[2 * i + 1] + 1 + states.before[2 * i];
      states.after[2 * i] = 0;
    }
  }
};

void rows_say_how_much_later_than_usual_they_are() {
  Scorer scorer(std::make_shared<Steps>(), 5.0, {}, std::nullopt, {}, kWarmUp);
  StateStore store(2, 0, {});
  const StreamRules rules{.warm_up_rows = kWarmUp, .gap_s = 100, .row_s = 10};
  StreamScorer streams;
  const std::vector<float> rows(6);
  const std::vector<double> times = {1000, 1005, 1035, 1030, 1200, std::nan("")};
  const std::vector<float> expected = {0, -0.5F, 2, -1, 0, 0};
  // One stream alone is scanned, two are stepped.
  for (const bool alone : {true, false}) {
    std::vector<float> scores(12, -9);
    std::vector<std::uint8_t> warming(12, 9);
    std::vector<StreamPart> parts;
    for (std::size_t i = 0; i < (alone ? 1U : 2U); ++i) {
      parts.push_back({.stream = alone    ? "alone"
                                 : i == 0 ? "a"
                                          : "b",
                       .rows = rows.data(),
                       .count = 6,
                       .outputs = {.scores = scores.data() + 6 * i},
                       .warming = warming.data() + 6 * i,
                       .times_s = times.data()});
    }
    streams.score(scorer, rules, store, parts);
    for (std::size_t i = 0; i < 6 * parts.size(); ++i) CHECK(scores[i] == expected[i % 6]);
    // 1, 1.5, 4.5 and 4.5 steps; then a gap, and two rows.
    CHECK((std::vector(warming.begin(), warming.begin() + 6) == std::vector<std::uint8_t>{1, 1, 0, 0, 1, 1}));
  }
}

void a_late_row_takes_no_time_back() {
  const auto extra_steps_of = [](std::vector<double> times_s, double gap_s = 100) {
    Scorer scorer(std::make_shared<Steps>(), 5.0, {}, std::nullopt, {}, kWarmUp);
    StateStore store(2, 0, {});
    const StreamRules rules{.warm_up_rows = kWarmUp, .gap_s = gap_s, .row_s = 10};
    const std::vector<float> rows(times_s.size());
    std::vector<float> scores(times_s.size());
    std::vector<std::uint8_t> warming(times_s.size());
    const StreamPart part{.stream = "a",
                          .rows = rows.data(),
                          .count = rows.size(),
                          .outputs = {.scores = scores.data()},
                          .warming = warming.data(),
                          .times_s = times_s.data()};
    StreamScorer().score(scorer, rules, store, {&part, 1});
    return scores;
  };
  CHECK(extra_steps_of({1000, 1010, 950, 1020, 1040}) == std::vector<float>({0, 0, -1, 0, 1}));
  // A clock that was set back, and one that was ahead for a row.
  CHECK(extra_steps_of({5000, 1000, 1010, 9000, 1020, 1030}) == std::vector<float>({0, -1, 0, 0, -1, 0}));
  // Whatever the times, a state stays finite.
  CHECK(extra_steps_of({-1e300, 0}, std::numeric_limits<double>::infinity()) ==
        std::vector<float>({0, 999'999}));
}

void streams_go_on_by_the_rules_of_the_version_that_scores_them() {
  Scorer scorer(std::make_shared<RunningMeanSession>(1), 5.0, {}, std::nullopt, {}, kWarmUp);
  const auto version = [](std::size_t warm_up_rows, double gap_s, float first, std::size_t stale_rows) {
    return StreamRules{
        .warm_up_rows = warm_up_rows, .gap_s = gap_s, .carry = {.first = {first}, .stale_rows = stale_rows}};
  };
  const StreamRules old_rules = version(3, 100, 10, 1);
  const StreamRules new_rules = version(1, 5, 70, 2);
  StateStore store(2, old_rules.carry.size(), {});
  float score = 0;
  double time_s = 1000;
  const auto next = [&](const StreamRules& rules, std::string_view stream, float value, double later_s) {
    time_s += later_s;
    const StreamPart part{.stream = stream,
                          .rows = &value,
                          .count = 1,
                          .outputs = {.scores = &score},
                          .times_s = &time_s,
                          .to_fill = &value};
    StreamScorer().score(scorer, rules, store, {&part, 1});
    return value;
  };
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  CHECK(next(old_rules, "a", 3, 0) == 3 && next(old_rules, "a", kNan, 50) == 3 && store.stale() == 0);
  CHECK(next(old_rules, "a", kNan, 1) == 3 && store.stale() == 1 && store.warming() == 1);
  CHECK(next(new_rules, "b", kNan, 1) == 70 && next(old_rules, "c", kNan, 0) == 10);
  // The rows since the last value go on being counted, and three are more than two.
  CHECK(next(new_rules, "a", kNan, 1) == 3 && score == 0 && store.stale() == 1 && store.warming() == 2);
  CHECK(next(new_rules, "a", 4, 1) == 4 && score == 1 && store.stale() == 0);
  CHECK(next(new_rules, "a", 4, 50) == 4 && score == 4);  // Begun anew after what is a gap by now.
}

void a_follower_knows_how_long_values_have_been_carried() {
  Scorer scorer(std::make_shared<RunningMeanSession>(2), 5.0, {}, std::nullopt, {}, kWarmUp);
  const StreamRules rules{.carry = {.first = {10, 20}, .stale_rows = 2}};
  const StreamRules later{.carry = {.first = {30, 40}, .stale_rows = 3}};
  StateStore store(2, rules.carry.size(), {});
  StateStore followers(2, later.carry.size(), {});
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  StreamScorer streams;
  std::vector<float> rows;
  const auto score = [&](std::vector<float> values, bool is_followed) {
    rows = std::move(values);
    const StreamPart part{
        .stream = "a", .rows = rows.data(), .count = rows.size() / 2, .to_fill = rows.data()};
    streams.score(scorer, rules, store, {&part, 1});
    if (is_followed) streams.score(scorer, later, followers, {&part, 1}, &store);
  };
  score({1, 2, kNan, 3, kNan, 4}, false);  // Before there was a follower.
  score({kNan, 5}, true);
  CHECK(store.stale() == 1 && followers.stale() == 0);
  score({kNan, 6}, true);
  CHECK((rows == std::vector<float>{1, 6}));
  CHECK((followers.stale_columns("a", later.carry) == std::vector<std::size_t>{0}));
  // It goes on alone.
  rows = {kNan, kNan};
  const StreamPart part{.stream = "a", .rows = rows.data(), .count = 1, .to_fill = rows.data()};
  streams.score(scorer, later, followers, {&part, 1});
  CHECK((rows == std::vector<float>{1, 6}) && followers.stale() == 1);
  // What the leader has forgotten is forgotten.
  rows = {kNan, 7};
  const StreamPart last[] = {
      {.stream = "a", .rows = rows.data(), .count = 1, .to_fill = rows.data(), .ends = true}};
  streams.score(scorer, rules, store, last);
  streams.score(scorer, later, followers, last, &store);
  CHECK(store.size() == 0 && followers.size() == 0);
  // A leader that carries nothing has no more to tell.
  StateStore whole(2, 0, {});
  score({8, 9}, true);
  const StreamPart complete{.stream = "a", .rows = rows.data(), .count = 1};
  streams.score(scorer, {}, whole, {&complete, 1}, &store);
  CHECK(whole.size() == 1);
}

void warming_rows_are_no_anomalies() {
  const auto scorer = make_scorer();
  StateStore store(2, 0, {});
  const std::vector<float> rows(8, 100.0F);
  std::vector<float> scores(8);
  std::vector<std::uint8_t> warming(8);
  const StreamPart part{.stream = "a",
                        .rows = rows.data(),
                        .count = 8,
                        .outputs = {.scores = scores.data()},
                        .warming = warming.data()};
  StreamScorer().score(*scorer, kRules, store, {&part, 1});
  CHECK(warming == std::vector<std::uint8_t>({1, 1, 1, 0, 0, 0, 0, 0}));
  CHECK(scorer->is_anomaly(scores[0]) && scorer->counts().anomalies == 0 && scorer->counts().rows == 8);
}

void a_store_is_scored_from_and_copied_at_once() {
  const auto scorer = make_scorer();
  StateStore store(2, 0, {.max_streams = 50});
  std::atomic<bool> done{false};
  std::jthread copier([&] {
    while (!done.load()) {
      std::size_t place = 0;
      StatePage page;
      while (store.copy(place, 8, page)) {
      }
      for (std::size_t i = 0; i < page.streams.size(); ++i)
        CHECK(page.records[2 * i] == page.records[2 * i + 1]);
    }
  });
  StreamScorer streams;
  const float row = 1;
  for (int i = 0; i < 20'000; ++i) {
    const std::string stream = std::to_string(i * 31 % 70);
    float score = 0;
    const StreamPart part{.stream = stream, .rows = &row, .count = 1, .outputs = {.scores = &score}};
    streams.score(*scorer, kRules, store, {&part, 1});
  }
  done.store(true);
  CHECK(store.size() == 50 && store.evicted() > 0);
}

}  // namespace
}  // namespace datasentinel

int main() {
  using namespace datasentinel;
  the_stream_used_least_recently_goes_first();
  memory_is_bounded_whatever_the_ids();
  warming_streams_are_counted();
  pages_hold_all_streams_that_last();
  interleaved_streams_score_as_each_does_alone();
  a_fault_leaves_every_stream_as_it_was();
  values_that_are_missing_are_carried_unless_scoring_fails();
  rules_that_carry_more_or_less_than_there_is_room_for_are_refused();
  rows_say_how_much_later_than_usual_they_are();
  a_late_row_takes_no_time_back();
  streams_go_on_by_the_rules_of_the_version_that_scores_them();
  a_follower_knows_how_long_values_have_been_carried();
  warming_rows_are_no_anomalies();
  a_store_is_scored_from_and_copied_at_once();
  return check::result();
}
