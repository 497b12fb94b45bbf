// The serving room without a wire: the table of models, batches, the queue, the service, budgets.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "check.h"
#include "running_mean_session.h"
#include "serving/batch_queue.h"
#include "serving/batch_scorer.h"
#include "serving/cost_estimate.h"
#include "serving/inference_service.h"
#include "serving/memory_budget.h"
#include "serving/model_table.h"
#include "serving/reasons.h"
#include "serving/request_counts.h"
#include "sum_session.h"

namespace datasentinel {
namespace {

void the_table_finds_models_by_name_and_version() {
  const auto scorer = [] { return std::make_shared<Scorer>(std::make_shared<SumSession>(2), 1.0); };
  ModelTable models;
  CHECK(models.find("", "") == nullptr);
  models.put("a", "1", scorer());
  models.put("b", "7", scorer());
  const auto generation = models.generation();
  models.put("a", "2", scorer());
  CHECK(models.generation() > generation);
  CHECK(models.find("", "")->name == "a" && models.find("", "")->version == "2");
  CHECK(models.find("a", "1")->version == "1");
  CHECK(models.find("b", "")->version == "7");
  CHECK(models.find("a", "3") == nullptr && models.find("c", "") == nullptr);

  const auto held = models.find("a", "2");
  models.put("a", "2", scorer());
  CHECK(models.find("a", "2")->scorer != held->scorer);
  models.put("a", "1", scorer());  // Rolled back: what was put last is the latest.
  CHECK(models.find("a", "")->version == "1");
  CHECK(!models.remove("a", "9") && !models.remove("c", "1"));
  CHECK(models.remove("a", "1"));
  CHECK(models.find("a", "")->version == "2");
  models.set_default("b");
  CHECK(models.find("", "")->name == "b");
  CHECK(models.remove("b", "7"));
  CHECK(models.find("", "") == nullptr);
  CHECK_THROWS_WITH(ErrorCode::invalid_argument, "needs a name", models.put("", "1", scorer()));
  CHECK_THROWS_WITH(ErrorCode::invalid_argument, "needs a name", models.set_default(""));
}

/// Sums rows of two columns, remembers the batches, and waits at a gate while it is closed.
class WatchedSession final : public Session {
 public:
  [[nodiscard]] std::size_t input_dim() const noexcept override { return 2; }
  [[nodiscard]] std::string_view backend() const noexcept override { return "watched"; }
  [[nodiscard]] Facts facts() const override { return {}; }
  void run(ConstRows rows, Outputs outputs) override {
    while (closed.load()) std::this_thread::yield();
    {
      const std::lock_guard lock(mutex);
      batches.push_back(rows.rows);
      for (std::size_t i = 0; i < rows.rows; ++i) order.push_back(rows.row(i)[0]);
    }
    sum_.run(rows, outputs);
  }

  std::atomic<bool> closed{false};
  std::mutex mutex;
  std::vector<std::size_t> batches;
  std::vector<float> order;  ///< Of the rows, by their first column.

 private:
  SumSession sum_{2};
};

struct Watched {
  std::shared_ptr<WatchedSession> session = std::make_shared<WatchedSession>();
  std::shared_ptr<ModelTable> models = std::make_shared<ModelTable>();

  Watched() { models->put("m", "1", std::make_shared<Scorer>(session, 10.0)); }

  void fill(ScoringTask& task, std::size_t rows, float first) const {
    task.model = models->find("m", "");
    task.wanted.scores = true;
    task.rows = rows;
    for (std::size_t i = 0; i < rows; ++i) {
      task.values.append(first);
      task.values.append(static_cast<float>(i));
    }
  }

  [[nodiscard]] std::unique_ptr<ScoringJob> job(std::uint64_t connection, std::size_t rows,
                                                float first = 0) const {
    auto job = std::make_unique<ScoringJob>();
    fill(job->task, rows, first);
    job->connection = connection;
    return job;
  }
};

std::vector<std::unique_ptr<ScoringJob>> collect(BatchQueue& queue, std::size_t count) {
  std::vector<std::unique_ptr<ScoringJob>> jobs;
  while (jobs.size() < count) {
    for (auto& job : queue.collect()) jobs.push_back(std::move(job));
    std::this_thread::yield();
  }
  return jobs;
}

bool is_scored(const ScoringJob& job) {
  const ScoringTask& task = job.task;
  if (task.failure || task.scores.size() != task.rows) return false;
  for (std::size_t i = 0; i < task.rows; ++i) {
    if (task.scores.data()[i] != task.values.data()[2 * i] + task.values.data()[2 * i + 1]) return false;
  }
  return true;
}

void reasons_are_ranked_by_contribution_and_then_by_column() {
  const Watched watched;
  ScoringTask task;
  watched.fill(task, 2, 5);
  task.wanted.contributions = true;
  for (const float contribution : {9.0F, 9.0F, 0.5F, 0.5F}) task.contributions.append(contribution);
  const std::vector<Reason> reasons = rank_reasons(task, 1, 7);
  CHECK(reasons.size() == 2);
  CHECK(reasons[0].column == 0 && reasons[0].contribution == 0.5F && reasons[0].value == 5);
  CHECK(reasons[1].column == 1 && reasons[1].value == 1 && !reasons[1].expected);

  task.contributions.data()[3] = 0.75F;
  task.wanted.reconstructions = true;
  for (const float expected : {0.0F, 0.0F, 2.0F, 4.0F}) task.reconstructions.append(expected);
  const std::vector<Reason> greatest = rank_reasons(task, 1, 1);
  CHECK(greatest.size() == 1 && greatest[0].column == 1 && greatest[0].expected == 4.0F);
}

void a_latency_falls_into_the_bucket_whose_bound_it_does_not_exceed() {
  RequestCounts counts({1e-3, 1.0});
  for (const double latency_s : {0.0, 1e-3, 1.1e-3, 1e9}) counts.add(1, 0, 0, latency_s);
  const RequestCounts::Values values = counts.take();
  CHECK(values.requests == 4);
  CHECK((values.latency_counts == std::vector<std::uint64_t>{2, 1, 1}));
  CHECK(counts.take().requests == 0);
}

void a_bad_task_fails_alone() {
  const Watched watched;
  ScoringTask good;
  ScoringTask bad;
  ScoringTask other;
  watched.fill(good, 2, 1);
  watched.fill(bad, 1, std::numeric_limits<float>::quiet_NaN());
  watched.fill(other, 3, 2);
  ScoringTask* const tasks[] = {&good, &bad, &other};
  BatchScorer().score(tasks);
  CHECK(!good.failure && good.scores.size() == 2 && good.scores.data()[1] == 2);
  CHECK(bad.failure && bad.failure->code() == ErrorCode::invalid_argument);
  CHECK(!other.failure && other.scores.size() == 3 && other.scores.data()[2] == 4);
}

void tasks_alike_share_a_batch_and_others_do_not() {
  const Watched watched;
  ScoringTask first;
  ScoringTask second;
  ScoringTask different;
  watched.fill(first, 2, 1);
  watched.fill(second, 3, 2);
  watched.fill(different, 4, 3);
  different.wanted.reconstructions = true;
  ScoringTask* const tasks[] = {&first, &different, &second};
  BatchScorer().score(tasks);
  CHECK(watched.session->batches == (std::vector<std::size_t>{5, 4}));
  CHECK(different.reconstructions.size() == 8 && first.reconstructions.size() == 0);
}

void the_queue_batches_what_waits_fairly_between_connections() {
  const Watched watched;
  watched.session->closed = true;
  BatchQueue queue({.max_batch_rows = 4}, [] {});
  auto head = watched.job(9, 1, 100);
  CHECK(queue.submit(head));
  while (queue.depth_rows() == 1 && queue.waits_s().values().sum == 0) std::this_thread::yield();
  // Connection 1 asks for much, then 2 and 3 for little; each has its turn.
  for (int i = 0; i < 6; ++i) {
    auto job = watched.job(1, 1, 1);
    CHECK(queue.submit(job));
  }
  for (const std::uint64_t connection : {2, 3}) {
    auto job = watched.job(connection, 1, static_cast<float>(connection));
    CHECK(queue.submit(job));
  }
  watched.session->closed = false;
  for (const auto& job : collect(queue, 9)) CHECK(is_scored(*job));
  CHECK(watched.session->batches == (std::vector<std::size_t>{1, 4, 4}));
  const std::vector<float> second(watched.session->order.begin() + 1, watched.session->order.begin() + 5);
  CHECK(std::ranges::count(second, 2.0F) == 1 && std::ranges::count(second, 3.0F) == 1);
  CHECK(queue.depth_rows() == 0);
}

void a_long_job_is_scored_in_parts_and_holds_up_no_short_one() {
  const Watched watched;
  watched.session->closed = true;
  BatchQueue queue({.max_batch_rows = 10}, [] {});
  auto large = watched.job(1, 1000, 1);
  CHECK(queue.submit(large));
  while (queue.waits_s().values().sum == 0) std::this_thread::yield();
  auto small = watched.job(2, 1, 2);
  CHECK(queue.submit(small));
  watched.session->closed = false;
  const auto jobs = collect(queue, 2);
  CHECK(jobs[0]->connection == 2);
  for (const auto& job : jobs) CHECK(is_scored(*job));
  CHECK(watched.session->batches.size() == 101);
  CHECK(queue.depth_rows() == 0);
}

/// A model with memory that waits at a gate while it is closed, and may break.
class GatedMeanSession final : public Session {
 public:
  [[nodiscard]] std::size_t input_dim() const noexcept override { return 1; }
  [[nodiscard]] std::size_t state_dim() const noexcept override { return 2; }
  [[nodiscard]] std::string_view backend() const noexcept override { return "gated"; }
  [[nodiscard]] Facts facts() const override { return {}; }
  void run(ConstRows rows, Outputs outputs) override { mean_.run(rows, outputs); }
  void step(ConstRows rows, States states, Outputs outputs) override {
    while (closed.load()) std::this_thread::yield();
    if (broken.load()) throw Error(ErrorCode::backend_failure, "it is broken");
    mean_.step(rows, states, outputs);
  }

  std::atomic<bool> closed{false};
  std::atomic<bool> broken{false};

 private:
  RunningMeanSession mean_{1};
};

void requests_for_one_stream_are_scored_one_after_the_other() {
  for (const std::size_t threads : {1, 3}) {
    const auto session = std::make_shared<GatedMeanSession>();
    const auto states = std::make_shared<StateStore>(2, 0, StateLimits{});
    ModelTable models;
    models.put("m", "1", std::make_shared<Scorer>(session, 1e9), {.states = states});
    const auto job = [&models](std::uint64_t connection, const char* stream, std::size_t rows) {
      auto made = std::make_unique<ScoringJob>();
      made->connection = connection;
      made->task.model = models.find("m", "");
      made->task.wanted.scores = true;
      made->task.rows = rows;
      made->task.streams = {{.stream = stream, .rows = rows}};
      for (std::size_t i = 0; i < rows; ++i) made->task.values.append(static_cast<float>(connection));
      return made;
    };
    session->closed = true;
    BatchQueue queue({.max_batch_rows = 10, .threads = threads}, [] {});
    auto large = job(1, "a", 1000);
    CHECK(queue.submit(large));
    while (queue.waits_s().values().sum == 0) std::this_thread::yield();
    auto same = job(2, "a", 1);
    auto other = job(3, "b", 1);
    CHECK(queue.submit(same) && queue.submit(other));
    CHECK(states->has_work());
    session->closed = false;
    const auto jobs = collect(queue, 3);
    const auto answer_to = [&jobs](std::uint64_t connection) {
      return std::ranges::find(jobs, connection, [](const auto& done) { return done->connection; });
    };
    CHECK(answer_to(1) < answer_to(2));
    CHECK(threads > 1 || answer_to(3) < answer_to(1));
    CHECK((*answer_to(2))->task.scores.data()[0] == 1);  // 2, above a mean of 1000 rows of 1.
    CHECK(!states->has_work());
    float state[2];
    states->read("a", state);
    CHECK(state[0] == 1002 && state[1] == 1001);
  }
}

/// A model with memory, and the one that is to take its place.
struct Shadowed {
  std::shared_ptr<GatedMeanSession> old_session = std::make_shared<GatedMeanSession>();
  std::shared_ptr<GatedMeanSession> new_session = std::make_shared<GatedMeanSession>();
  std::shared_ptr<Scorer> old_scorer = std::make_shared<Scorer>(old_session, 1e9);
  std::shared_ptr<Scorer> new_scorer = std::make_shared<Scorer>(new_session, 1e9);
  std::shared_ptr<StateStore> old_states = std::make_shared<StateStore>(2, 0, StateLimits{});
  std::shared_ptr<StateStore> new_states = std::make_shared<StateStore>(2, 0, StateLimits{});
  std::shared_ptr<Shadow> shadow = std::make_shared<Shadow>(new_scorer, new_states, StreamRules{});
  ModelTable models;

  void put(std::shared_ptr<Shadow> with) {
    models.put("m", "1", old_scorer, {.states = old_states, .shadow = std::move(with)});
  }
  void fill(ScoringTask& task, const char* stream, std::size_t rows) const {
    task.model = models.find("m", "");
    task.wanted.scores = true;
    task.rows = rows;
    task.streams = {{.stream = stream, .rows = rows}};
    for (std::size_t i = 0; i < rows; ++i) task.values.append(1);
  }
  [[nodiscard]] static float rows_seen(const StateStore& states, std::string_view stream) {
    float state[2];
    states.read(stream, state);
    return state[1];
  }
};

void a_shadow_sees_all_rows_and_answers_nobody() {
  Shadowed models;
  BatchScorer scorer;
  const auto score = [&](const char* stream, std::size_t rows) {
    ScoringTask one;
    ScoringTask two;
    models.fill(one, stream, rows);
    models.fill(two, "other", 1);
    ScoringTask* const tasks[] = {&one, &two};
    scorer.score(tasks);
    return !one.failure && !two.failure && one.scores.size() == rows;
  };
  models.put(nullptr);
  CHECK(score("a", 5));
  const auto statistics = models.models.find("m", "")->statistics;
  models.put(models.shadow);
  CHECK(models.models.find("m", "")->statistics == statistics);
  CHECK(score("a", 3) && score("b", 1));
  ScoringTask part;  // A long task, in parts.
  models.fill(part, "c", 6);
  BatchScorer::score_rows(part, 0, 4);
  BatchScorer::score_rows(part, 4, 2);
  CHECK(Shadowed::rows_seen(*models.old_states, "a") == 8);
  CHECK(Shadowed::rows_seen(*models.new_states, "a") == 3);
  CHECK(Shadowed::rows_seen(*models.new_states, "b") == 1);
  CHECK(Shadowed::rows_seen(*models.new_states, "c") == 6);
  CHECK(models.new_scorer->counts().rows == 0 && models.old_scorer->counts().rows == 18);

  models.old_session->broken = true;  // What is not answered is not seen.
  CHECK(!score("a", 1) && Shadowed::rows_seen(*models.new_states, "a") == 3);
  models.old_session->broken = false;
  models.new_session->broken = true;
  CHECK(score("a", 1) && models.shadow->failure() == "it is broken");
  models.new_session->broken = false;
  CHECK(score("a", 1) && Shadowed::rows_seen(*models.new_states, "a") == 3);
  CHECK(Shadowed::rows_seen(*models.old_states, "a") == 10);
}

void a_shadow_with_a_season_has_a_clock_of_its_own() {
  Shadowed models;
  const auto clock_at = [](double offset_s) {
    return std::make_shared<WallClock>(std::vector<double>{0}, std::vector<double>{offset_s});
  };
  const auto shadow =
      std::make_shared<Shadow>(models.new_scorer, models.new_states, StreamRules{}, clock_at(3600));
  models.models.put("m", "1", models.old_scorer,
                    {.states = models.old_states, .clock = clock_at(0), .shadow = shadow});
  const auto sum_of = [](const StateStore& states) {
    float state[2];
    states.read("a", state);
    return state[0];
  };
  ScoringTask task;
  models.fill(task, "a", 2);
  task.values.data()[0] = clock_at(0)->second_of_week(1e9);
  task.values.data()[1] = 5;  // Nobody knows when.
  task.times_s = {1e9, std::nan("")};
  const float second = task.values.data()[0];
  BatchScorer::score_rows(task, 0, 2);
  CHECK(!task.failure && task.values.data()[0] == second);
  CHECK(sum_of(*models.old_states) == second + 5 && sum_of(*models.new_states) == second + 3600 + 5);
}

void a_shadow_may_carry_what_the_old_model_does_not() {
  Shadowed models;
  const auto carrying = [&](const std::shared_ptr<StateStore>& states, std::size_t columns) {
    const StreamRules rules{.carry = {.first = std::vector<float>(columns, 0.5F), .stale_rows = 1}};
    return std::make_shared<Shadow>(models.new_scorer, states, rules);
  };
  const auto states = std::make_shared<StateStore>(2, 2, StateLimits{});
  models.put(carrying(states, 1));
  ScoringTask task;
  models.fill(task, "a", 3);
  BatchScorer::score_rows(task, 0, 3);
  CHECK(!task.failure && Shadowed::rows_seen(*states, "a") == 3);
  CHECK_THROWS_WITH(ErrorCode::invalid_argument, "carried", models.put(carrying(states, 2)));
  const auto wider = std::make_shared<StateStore>(2, 4, StateLimits{});
  CHECK_THROWS_WITH(ErrorCode::invalid_argument, "carried", models.put(carrying(wider, 2)));
}

void a_model_without_memory_carries_nothing() {
  ModelTable table;
  const ModelAbilities abilities{.rules = {.carry = {.first = {0.5F, 0.5F}}}};
  CHECK_THROWS_WITH(
      ErrorCode::invalid_argument, "with memory only",
      table.put("m", "1", std::make_shared<Scorer>(std::make_shared<SumSession>(2), 1.0), abilities));
  CHECK(table.find("m", "1") == nullptr);
}

void a_model_that_leaves_the_shadow_waits_for_rows_of_the_old_one() {
  Shadowed models;
  models.put(models.shadow);
  const auto job = [&models](std::uint64_t connection, std::size_t rows) {
    auto made = std::make_unique<ScoringJob>();
    made->connection = connection;
    models.fill(made->task, "a", rows);
    return made;
  };
  models.new_session->closed = true;
  BatchQueue queue({.max_batch_rows = 10, .threads = 3}, [] {});
  auto before = job(1, 10);
  CHECK(queue.submit(before));
  while (Shadowed::rows_seen(*models.old_states, "a") == 0) std::this_thread::yield();
  models.models.put("m", "2", models.new_scorer, {.states = models.new_states});
  CHECK(models.new_states->has_work());
  auto after = job(2, 1);
  CHECK(queue.submit(after));
  models.new_session->closed = false;
  const auto jobs = collect(queue, 2);
  CHECK(jobs[0]->connection == 1 && jobs[1]->connection == 2 && !models.new_states->has_work());
  CHECK(Shadowed::rows_seen(*models.new_states, "a") == 11);
}

void rows_of_the_old_model_do_not_overtake_those_of_one_that_has_left_its_shadow() {
  Shadowed models;
  models.put(models.shadow);
  ScoringTask late;  // Its model was chosen before the switch.
  models.fill(late, "a", 1);
  ScoringTask* const tasks[] = {&late};
  const InferenceService service(std::make_shared<ModelTable>(), {.max_inline_us = 1e9}, {}, [] {});
  CHECK(!service.is_long(tasks));
  models.new_states->begin_work();
  CHECK(service.is_long(tasks));
  models.new_states->end_work();
}

void a_model_and_its_store_belong_together() {
  ModelTable models;
  const auto with_memory = std::make_shared<Scorer>(std::make_shared<RunningMeanSession>(1), 1.0);
  const auto without = std::make_shared<Scorer>(std::make_shared<SumSession>(1), 1.0);
  const auto states = std::make_shared<StateStore>(3, 0, StateLimits{});
  CHECK_THROWS_WITH(ErrorCode::invalid_argument, "store of states", models.put("m", "1", with_memory));
  CHECK_THROWS_WITH(ErrorCode::invalid_argument, "store of states",
                    models.put("m", "1", with_memory, {.states = states}));
  CHECK_THROWS_WITH(ErrorCode::invalid_argument, "store of states",
                    models.put("m", "1", without, {.states = states}));
  const auto of_its_size = std::make_shared<StateStore>(2, 0, StateLimits{});
  const auto wider = std::make_shared<Scorer>(std::make_shared<RunningMeanSession>(2), 1.0);
  for (const auto& shadow : {std::make_shared<Shadow>(wider, of_its_size, StreamRules{}),
                             std::make_shared<Shadow>(with_memory, states, StreamRules{})}) {
    CHECK_THROWS_WITH(ErrorCode::invalid_argument, "a shadow is",
                      models.put("m", "1", with_memory, {.states = of_its_size, .shadow = shadow}));
  }
}

void a_full_queue_takes_no_more_until_it_has_room() {
  const Watched watched;
  watched.session->closed = true;
  BatchQueue queue({.max_rows = 10}, [] {});
  auto huge = watched.job(1, 50);  // An idle queue takes a job of any size.
  CHECK(queue.submit(huge) && huge == nullptr);
  auto small = watched.job(2, 1);
  CHECK(!queue.submit(small) && small != nullptr);
  watched.session->closed = false;
  CHECK(is_scored(*collect(queue, 1)[0]));
  CHECK(queue.submit(small));
  CHECK(is_scored(*collect(queue, 1)[0]));
}

void who_waits_no_more_is_not_scored() {
  const Watched watched;
  watched.session->closed = true;
  BatchQueue queue({}, [] {});
  auto head = watched.job(1, 1);
  CHECK(queue.submit(head));
  while (queue.waits_s().values().sum == 0) std::this_thread::yield();
  auto given_up = watched.job(2, 5);
  given_up->cancelled = std::make_shared<std::atomic<bool>>(true);
  CHECK(queue.submit(given_up));
  watched.session->closed = false;
  CHECK(collect(queue, 2).size() == 2);
  CHECK(watched.session->batches == (std::vector<std::size_t>{1}));
}

void a_job_waits_for_company_from_its_submission_on() {
  using namespace std::chrono_literals;
  const Watched watched;
  watched.session->closed = true;
  BatchQueue queue({.max_delay = 200ms}, [] {});
  auto first = watched.job(1, 1);
  CHECK(queue.submit(first));
  while (queue.waits_s().values().sum == 0) std::this_thread::yield();
  auto second = watched.job(1, 1);
  CHECK(queue.submit(second));
  std::this_thread::sleep_for(250ms);  // So long the worker is busy; its wait is over by then.
  const auto opened = std::chrono::steady_clock::now();
  watched.session->closed = false;
  const auto jobs = collect(queue, 2);
  CHECK(std::chrono::steady_clock::now() - opened < 150ms);
  CHECK(jobs[0]->task.waited >= 200ms);
}

struct PreparedJob final : ScoringJob {
  explicit PreparedJob(const Watched& watched_, bool is_good_) : watched(watched_), is_good(is_good_) {
    needs_preparation = true;
    task.rows = 1;  // A guess.
  }
  void prepare() noexcept override {
    thread = std::this_thread::get_id();
    watched.fill(task, 30, 1);
    if (!is_good) task.failure = Error(ErrorCode::invalid_argument, "unreadable");
  }
  const Watched& watched;
  bool is_good;
  std::thread::id thread;
};

void a_job_is_prepared_in_another_thread() {
  const Watched watched;
  BatchQueue queue({}, [] {});
  for (const bool is_good : {true, false}) {
    std::unique_ptr<ScoringJob> job = std::make_unique<PreparedJob>(watched, is_good);
    CHECK(queue.submit(job));
    const auto jobs = collect(queue, 1);
    CHECK(is_scored(*jobs[0]) == is_good);
    CHECK(static_cast<PreparedJob&>(*jobs[0]).thread != std::this_thread::get_id());
    CHECK(queue.depth_rows() == 0);
  }
}

class Owner final : public JobOwner {
 public:
  void on_scored(std::unique_ptr<ScoringJob> job) override { jobs.push_back(std::move(job)); }
  std::vector<std::unique_ptr<ScoringJob>> jobs;
};

void the_service_leads_each_job_back_to_whose_it_is() {
  const Watched watched;
  watched.session->closed = true;
  InferenceService service(watched.models, {}, {.max_rows = 1}, [] {});
  Owner first;
  Owner second;
  const std::uint64_t one = service.enter(first);
  const std::uint64_t two = service.enter(second);
  CHECK(one != two);
  for (const std::uint64_t number : {one, two, two}) service.submit_in_time(watched.job(number, 1));
  service.leave(one);  // Its job is dropped.
  watched.session->closed = false;
  while (second.jobs.size() < 2) {
    for (const std::uint64_t number : service.collect()) CHECK(number == two);
  }
  CHECK(first.jobs.empty());
  for (const auto& job : second.jobs) CHECK(is_scored(*job));
  CHECK_THROWS(ErrorCode::invalid_argument, InferenceService(nullptr, {}, {}, [] {}));
}

void what_is_long_follows_from_what_it_took() {
  const Watched watched;
  const InferenceService service(watched.models, {.max_inline_us = 100}, {}, [] {});
  ScoringTask task;
  watched.fill(task, 10, 0);
  ScoringTask* const tasks[] = {&task};
  CHECK(!service.is_long(tasks));  // Nothing is known yet.
  task.model->cost.add(10, 99);
  CHECK(!service.is_long(tasks));
  task.model->cost.add(10, 190);
  CHECK(service.is_long(tasks));
}

void a_budget_is_given_back() {
  const auto budget = std::make_shared<MemoryBudget>(100);
  {
    MemoryCharge charge(budget);
    CHECK(charge.resize(60) && budget->used() == 60);
    MemoryCharge other(budget);
    CHECK(!other.resize(50) && budget->used() == 60 && other.bytes() == 0);
    CHECK(charge.resize(20) && other.resize(80) && budget->used() == 100);
    MemoryCharge moved = std::move(charge);
    CHECK(moved.bytes() == 20 && budget->used() == 100);
    CHECK(!moved.resize(std::numeric_limits<std::size_t>::max()));
  }
  CHECK(budget->used() == 0);
}

}  // namespace
}  // namespace datasentinel

int main() {
  using namespace datasentinel;
  the_table_finds_models_by_name_and_version();
  reasons_are_ranked_by_contribution_and_then_by_column();
  a_latency_falls_into_the_bucket_whose_bound_it_does_not_exceed();
  a_bad_task_fails_alone();
  tasks_alike_share_a_batch_and_others_do_not();
  the_queue_batches_what_waits_fairly_between_connections();
  a_long_job_is_scored_in_parts_and_holds_up_no_short_one();
  requests_for_one_stream_are_scored_one_after_the_other();
  a_shadow_sees_all_rows_and_answers_nobody();
  a_shadow_with_a_season_has_a_clock_of_its_own();
  a_shadow_may_carry_what_the_old_model_does_not();
  a_model_without_memory_carries_nothing();
  a_model_that_leaves_the_shadow_waits_for_rows_of_the_old_one();
  a_model_and_its_store_belong_together();
  a_full_queue_takes_no_more_until_it_has_room();
  who_waits_no_more_is_not_scored();
  a_job_waits_for_company_from_its_submission_on();
  a_job_is_prepared_in_another_thread();
  the_service_leads_each_job_back_to_whose_it_is();
  what_is_long_follows_from_what_it_took();
  rows_of_the_old_model_do_not_overtake_those_of_one_that_has_left_its_shadow();
  a_budget_is_given_back();
  return check::result();
}
