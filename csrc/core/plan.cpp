#include "core/plan.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <random>
#include <utility>

#include "core/error.h"

namespace datasentinel {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kMaxRows = 8192;
constexpr std::size_t kMaxProbeValues = std::size_t{1} << 24;
constexpr int kMinRounds = 3;
constexpr int kMaxRounds = 9;
constexpr int kWarmUpCalls = 2;
constexpr double kMinTurnUs = 200.0;  // A turn shorter than this measures the clock, not the call.
// A challenger must be this much faster to take over from the backend of the next smaller size, or noise
// would cut the plan into pieces.
constexpr double kClearlyFaster = 0.97;

double microseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

/// Standard normal rows: any finite rows do, since time does not depend on the values.
std::vector<float> probe_rows(std::size_t count, std::size_t columns) {
  std::mt19937 random(0);
  std::normal_distribution<float> normal;
  std::vector<float> rows(count * columns);
  std::generate(rows.begin(), rows.end(), [&] { return normal(random); });
  return rows;
}

double call_us(Session& session, ConstRows rows, std::vector<float>& scores, std::size_t repeats) {
  const auto start = Clock::now();
  for (std::size_t i = 0; i < repeats; ++i) {
    session.run(rows, {.scores = scores.data(), .reconstructions = nullptr});
  }
  return microseconds_since(start) / static_cast<double>(repeats);
}

/// Why `scores` are not `baseline`, or an empty string.
std::string disagreement(const std::vector<float>& scores, const std::vector<float>& baseline,
                         double tolerance, const std::string& baseline_name) {
  double largest = 0;
  for (const float score : baseline) {
    if (std::isfinite(score)) largest = std::max(largest, static_cast<double>(std::abs(score)));
  }
  for (std::size_t i = 0; i < scores.size(); ++i) {
    const double got = scores[i];
    const double expected = baseline[i];
    if (!std::isfinite(got) && !std::isfinite(expected)) continue;
    // Scores near zero are compared on the scale of the others.
    const double allowed = tolerance * (std::abs(expected) + 0.01 * largest);
    if (!(std::abs(got - expected) <= allowed)) {
      return "its scores disagree with " + baseline_name + "'s: " + std::to_string(got) + " instead of " +
             std::to_string(expected) + " on a probe row";
    }
  }
  return {};
}

void remove_wrong_candidates(std::vector<Candidate>& candidates, double tolerance,
                             std::vector<Refusal>& refusals) {
  constexpr std::size_t rows = 67;  // Odd, so that block kernels meet their remainders.
  const std::size_t columns = candidates.back().session->input_dim();
  const std::vector<float> values = probe_rows(rows, columns);
  const ConstRows probe{.data = values.data(), .rows = rows, .columns = columns};
  std::vector<float> baseline(rows);
  std::vector<float> scores(rows);
  const std::string baseline_name = candidates.back().backend;
  candidates.back().session->run(probe, {.scores = baseline.data(), .reconstructions = nullptr});
  std::erase_if(candidates, [&](const Candidate& candidate) {
    if (candidate.backend == baseline_name) return false;
    std::string problem;
    try {
      candidate.session->run(probe, {.scores = scores.data(), .reconstructions = nullptr});
      problem = disagreement(scores, baseline, tolerance, baseline_name);
    } catch (const Error& error) {
      problem = error.what();
    }
    if (problem.empty()) return false;
    refusals.push_back({candidate.backend, problem});
    return true;
  });
}

/// Times every candidate on `rows` rows, in turns, for about `share_us` in all. Returns each one's fastest
/// turn: other work on the machine only ever adds time.
std::vector<double> time_in_turns(const std::vector<Candidate>& candidates, ConstRows rows,
                                  std::vector<float>& scores, double share_us) {
  std::vector<std::size_t> repeats;
  double round_us = 0;
  for (const auto& candidate : candidates) {
    call_us(*candidate.session, rows, scores, 1);  // Warm-up: scratch memory, caches, binding.
    const double once_us = call_us(*candidate.session, rows, scores, 1);
    repeats.push_back(static_cast<std::size_t>(std::max(1.0, kMinTurnUs / std::max(once_us, 0.01))));
    round_us += once_us * static_cast<double>(repeats.back());
  }
  const int rounds = std::clamp(static_cast<int>(share_us / round_us) - kWarmUpCalls, kMinRounds, kMaxRounds);
  std::vector<double> fastest(candidates.size(), std::numeric_limits<double>::infinity());
  for (int round = 0; round < rounds; ++round) {
    for (std::size_t i = 0; i < candidates.size(); ++i) {
      fastest[i] = std::min(fastest[i], call_us(*candidates[i].session, rows, scores, repeats[i]));
    }
  }
  return fastest;
}

}  // namespace

std::vector<Candidate> load_candidates(const Registry& registry, const Model& model,
                                       const SessionOptions& options, std::vector<Refusal>& refusals) {
  std::vector<Candidate> candidates;
  for (const auto& backend : registry.all()) {
    const std::string name(backend->name());
    const BackendStatus status = backend->status();
    if (status.availability != Availability::available) {
      refusals.push_back({name, std::string(to_string(status.availability)) + ": " + status.detail});
      continue;
    }
    if (backend->only_by_name()) {
      refusals.push_back({name, "runs only where it is named"});
      continue;
    }
    try {
      candidates.push_back({name, backend->load(model, options)});
    } catch (const Error& error) {
      if (error.code() == ErrorCode::invalid_model) throw;
      refusals.push_back({name, error.what()});
    }
  }
  if (candidates.empty()) {
    std::string message = "no backend can run this model";
    for (const auto& refusal : refusals) message += "; " + refusal.backend + ": " + refusal.reason;
    throw Error(ErrorCode::unavailable, message);
  }
  return candidates;
}

Plan measure_plan(std::vector<Candidate>& candidates, double budget_s, double tolerance) {
  const auto start = Clock::now();
  const double budget_us = budget_s * 1e6;
  Plan plan;
  remove_wrong_candidates(candidates, tolerance, plan.refusals);
  plan.steps.push_back({.min_rows = 1, .backend = candidates.front().backend});
  if (candidates.size() == 1 || budget_s <= 0) return plan;

  const std::size_t columns = candidates.front().session->input_dim();
  const std::size_t max_rows = std::clamp<std::size_t>(kMaxProbeValues / columns, 1, kMaxRows);
  const std::vector<float> values = probe_rows(max_rows, columns);
  std::vector<float> scores(max_rows);
  double last_round_us = 0;
  std::size_t sizes_left = 1;
  for (std::size_t rows = 1; rows < max_rows; rows *= 2) ++sizes_left;

  for (std::size_t rows = 1; rows <= max_rows; rows *= 2, --sizes_left) {
    const double left_us = budget_us - microseconds_since(start);
    // The next size costs about twice as much a call.
    if (rows > 1 && left_us < 2 * last_round_us * (kMinRounds + kWarmUpCalls)) break;
    const ConstRows probe{.data = values.data(), .rows = rows, .columns = columns};
    const std::vector<double> latencies_us =
        time_in_turns(candidates, probe, scores, left_us / static_cast<double>(sizes_left));
    last_round_us = 0;
    std::size_t incumbent = 0;
    for (std::size_t i = 0; i < candidates.size(); ++i) {
      plan.timings.push_back({.rows = rows, .backend = candidates[i].backend, .latency_us = latencies_us[i]});
      last_round_us += latencies_us[i];
      if (candidates[i].backend == plan.steps.back().backend) incumbent = i;
    }
    const auto fastest = static_cast<std::size_t>(std::min_element(latencies_us.begin(), latencies_us.end()) -
                                                  latencies_us.begin());
    if (latencies_us[fastest] >= kClearlyFaster * latencies_us[incumbent]) continue;
    if (rows == 1) {
      plan.steps.back().backend = candidates[fastest].backend;
    } else {
      plan.steps.push_back({.min_rows = rows, .backend = candidates[fastest].backend});
    }
  }
  return plan;
}

std::shared_ptr<Session> load_auto(const Registry& registry, const Model& model,
                                   const SessionOptions& options, const Plan* known, double budget_s,
                                   Plan& plan) {
  std::vector<Refusal> refusals;
  std::vector<Candidate> candidates = load_candidates(registry, model, options, refusals);
  if (known == nullptr) {
    plan = measure_plan(candidates, budget_s);
    plan.refusals.insert(plan.refusals.begin(), refusals.begin(), refusals.end());
  } else {
    plan = *known;
    std::erase_if(candidates, [&](const Candidate& candidate) {
      return std::any_of(plan.refusals.begin(), plan.refusals.end(),
                         [&](const Refusal& refusal) { return refusal.backend == candidate.backend; });
    });
  }
  return make_planned_session(std::move(candidates), plan);
}

}  // namespace datasentinel
