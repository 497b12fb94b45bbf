// Which backends can run a model, and which of them gets how many rows.

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "check.h"
#include "core/plan.h"
#include "core/registry.h"
#include "core/tensor.h"
#include "sum_session.h"

namespace datasentinel {
namespace {

class SumBackend final : public Backend {
 public:
  SumBackend(std::string name, Availability availability, ErrorCode load_error)
      : name_(std::move(name)), availability_(availability), load_error_(load_error) {}
  [[nodiscard]] std::string_view name() const noexcept override { return name_; }
  [[nodiscard]] BackendStatus status() override {
    return {.availability = availability_, .detail = "a reason", .version = {}, .library = {}};
  }
  [[nodiscard]] std::unique_ptr<Session> load(const Model&, const SessionOptions&) override {
    if (load_error_ != ErrorCode::invalid_argument) throw Error(load_error_, "cannot lower 'Loop'");
    return std::make_unique<SumSession>(2);
  }
  [[nodiscard]] bool only_by_name() const noexcept override { return name_ == "only by name"; }

 private:
  std::string name_;
  Availability availability_;
  ErrorCode load_error_;  // invalid_argument stands for "loads".
};

void only_backends_that_can_run_the_model_are_candidates() {
  Registry registry;
  registry.add(std::make_unique<SumBackend>("first", Availability::no_device, ErrorCode::invalid_argument));
  registry.add(std::make_unique<SumBackend>("second", Availability::available, ErrorCode::unsupported_model));
  std::vector<Refusal> refusals;
  CHECK_THROWS_WITH(ErrorCode::unavailable, "first: no device: a reason; second: cannot lower 'Loop'",
                    load_candidates(registry, {}, {}, refusals));
  registry.add(std::make_unique<SumBackend>("third", Availability::available, ErrorCode::invalid_argument));
  refusals.clear();
  const auto candidates = load_candidates(registry, {}, {}, refusals);
  CHECK(candidates.size() == 1 && candidates[0].backend == "third");
  CHECK(refusals.size() == 2);

  registry.add(
      std::make_unique<SumBackend>("only by name", Availability::available, ErrorCode::invalid_argument));
  refusals.clear();
  CHECK(load_candidates(registry, {}, {}, refusals).size() == 1);
  CHECK(refusals.back().backend == "only by name" && refusals.back().reason == "runs only where it is named");
  CHECK(registry.find("only by name").load({}, {}) != nullptr);

  Registry broken;
  broken.add(std::make_unique<SumBackend>("any", Availability::available, ErrorCode::invalid_model));
  CHECK_THROWS(ErrorCode::invalid_model, load_candidates(broken, {}, {}, refusals));
  CHECK_THROWS_WITH(ErrorCode::invalid_argument, "unknown backend 'nope'; known: auto, any",
                    broken.find("nope"));
}

/// The sum of the row plus `offset`, at a cost; fails once `fail` is set.
class CostlySession final : public Session {
 public:
  explicit CostlySession(std::function<double(std::size_t rows)> cost_us, float offset = 0)
      : cost_us_(std::move(cost_us)), offset_(offset) {}
  explicit CostlySession(double call_us, float offset = 0)
      : CostlySession([call_us](std::size_t) { return call_us; }, offset) {}
  [[nodiscard]] std::size_t input_dim() const noexcept override { return 2; }
  [[nodiscard]] std::string_view backend() const noexcept override { return "costly"; }
  [[nodiscard]] Facts facts() const override { return {}; }
  void run(ConstRows rows, Outputs outputs) override {
    if (fail) throw Error(ErrorCode::backend_failure, "device lost");
    ++calls;
    const auto start = std::chrono::steady_clock::now();
    const std::chrono::duration<double, std::micro> cost(cost_us_(rows.rows));
    cost_s += cost.count() * 1e-6;
    while (std::chrono::steady_clock::now() - start < cost) {
    }
    for (std::size_t i = 0; i < rows.rows; ++i) outputs.scores[i] = rows.row(i)[0] + rows.row(i)[1] + offset_;
  }

  bool fail = false;
  int calls = 0;
  double cost_s = 0;

 private:
  std::function<double(std::size_t rows)> cost_us_;
  float offset_;
};

void the_plan_takes_the_fastest_for_each_size() {
  // So far apart that no disturbance of the machine turns the order round.
  const auto small_batches = [](std::size_t rows) { return rows < 32 ? 20.0 : 4000.0; };
  std::vector<Candidate> candidates{{"for few", std::make_shared<CostlySession>(small_batches)},
                                    {"for many", std::make_shared<CostlySession>(400)}};
  const Plan plan = measure_plan(candidates, 0.5);
  CHECK(plan.steps.size() == 2);
  CHECK(plan.steps[0].min_rows == 1 && plan.steps[0].backend == "for few");
  CHECK(plan.steps[1].min_rows == 32 && plan.steps[1].backend == "for many");
  CHECK(plan.timings.size() >= 12);
  CHECK(plan.refusals.empty());

  const Plan unmeasured = measure_plan(candidates, 0);
  CHECK(unmeasured.steps.size() == 1 && unmeasured.steps[0].backend == "for few");
  CHECK(unmeasured.timings.empty());
}

void the_plan_keeps_to_its_budget() {
  const auto per_row = [](double row_us) {
    return [row_us](std::size_t rows) { return row_us * static_cast<double>(rows); };
  };
  const auto a = std::make_shared<CostlySession>(per_row(50));
  const auto b = std::make_shared<CostlySession>(per_row(400));
  std::vector<Candidate> candidates{{"a", a}, {"b", b}};
  const Plan plan = measure_plan(candidates, 0.2);
  // What the calls cost, whatever else the machine was busy with meanwhile.
  CHECK(a->cost_s + b->cost_s < 0.5);
  CHECK(plan.steps.size() == 1 && plan.steps[0].backend == "a");
}

void speed_never_buys_a_wrong_answer() {
  std::vector<Candidate> candidates{{"fast and wrong", std::make_shared<CostlySession>(0, 0.01F)},
                                    {"fast and close", std::make_shared<CostlySession>(0, 1e-7F)},
                                    {"baseline", std::make_shared<CostlySession>(500)}};
  const Plan plan = measure_plan(candidates, 0.1);
  CHECK(candidates.size() == 2);
  CHECK(plan.refusals.size() == 1 && plan.refusals[0].backend == "fast and wrong");
  CHECK(plan.refusals[0].reason.find("disagree with baseline's") != std::string::npos);
  CHECK(plan.steps[0].backend == "fast and close");
}

void a_planned_session_follows_its_plan_and_survives_a_failure() {
  const auto small = std::make_shared<CostlySession>(0);
  const auto large = std::make_shared<CostlySession>(0);
  const Plan plan{.steps = {{1, "small"}, {8, "large"}}, .timings = {}, .refusals = {}};
  const auto session = make_planned_session({{"small", small}, {"large", large}}, plan);
  const std::vector<float> values(20, 1.0F);
  std::vector<float> scores(10);
  const auto run = [&](std::size_t rows) {
    session->run({.data = values.data(), .rows = rows, .columns = 2}, {.scores = scores.data()});
  };
  run(7);
  run(8);
  run(10);
  CHECK(small->calls == 1 && large->calls == 2);
  CHECK(scores[9] == 2.0F);

  large->fail = true;
  scores.assign(10, 0.0F);
  run(10);
  CHECK(small->calls == 2);
  CHECK(scores[9] == 2.0F);
  large->fail = false;  // A failed backend is not trusted again.
  run(10);
  CHECK(small->calls == 3 && large->calls == 2);
  bool told = false;
  for (const auto& [key, value] : session->facts()) {
    told |= key == "large" && value.starts_with("failed") && value.find("device lost") != std::string::npos;
  }
  CHECK(told);
  small->fail = true;
  CHECK_THROWS_WITH(ErrorCode::backend_failure, "device lost", run(10));

  CHECK_THROWS_WITH(
      ErrorCode::invalid_argument, "'gone'",
      make_planned_session({{"small", small}}, {.steps = {{1, "gone"}}, .timings = {}, .refusals = {}}));
}

}  // namespace
}  // namespace datasentinel

int main() {
  using namespace datasentinel;
  only_backends_that_can_run_the_model_are_candidates();
  the_plan_takes_the_fastest_for_each_size();
  the_plan_keeps_to_its_budget();
  speed_never_buys_a_wrong_answer();
  a_planned_session_follows_its_plan_and_survives_a_failure();
  return check::result();
}
