#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/backend.h"
#include "core/registry.h"

namespace datasentinel {

/// A backend that `auto` passed over, and why.
struct Refusal {
  std::string backend;
  std::string reason;
};

/// From `min_rows` rows on (until the next step), batches go to `backend`.
struct PlanStep {
  std::size_t min_rows = 1;
  std::string backend;
};

/// One timing that a plan rests on: the fastest of a few turns, taken in alternation with the other backends.
struct PlanTiming {
  std::size_t rows = 0;
  std::string backend;
  double latency_us = 0;
};

/// Which backend takes which batch size. `steps` is ordered by `min_rows`, and its first step starts at 1.
struct Plan {
  std::vector<PlanStep> steps;
  std::vector<PlanTiming> timings;  ///< Empty when there was nothing to choose between.
  std::vector<Refusal> refusals;
};

/// A session and the name of the backend it came from.
struct Candidate {
  std::string backend;
  std::shared_ptr<Session> session;
};

/// Loads `model` on every backend of `registry` that can run it, in order of preference, but for those that
/// run only by name; the others are added to `refusals`. Throws Error{unavailable} that lists every refusal
/// when none can run it. A broken model (invalid_model) is an error at once.
[[nodiscard]] std::vector<Candidate> load_candidates(const Registry& registry, const Model& model,
                                                     const SessionOptions& options,
                                                     std::vector<Refusal>& refusals);

/// Measures the candidates at 1, 2, 4 ... 8192 rows for at most about `budget_s` seconds and plans the
/// fastest for each size; sizes that the budget does not reach go to the fastest at the largest size
/// measured.
///
/// Speed never buys a wrong answer: a candidate whose scores differ from those of the last candidate (the
/// baseline, by the registry's order) by more than `tolerance` (relative) is removed from `candidates` and
/// listed in the plan's refusals.
[[nodiscard]] Plan measure_plan(std::vector<Candidate>& candidates, double budget_s, double tolerance = 1e-4);

/// A session that sends each batch to the backend that `plan` names for its size. When that backend fails,
/// the batch is finished on the next candidate, the failed one is not used again, and `facts` says so and
/// why.
///
/// Throws Error{invalid_argument} when a step names no candidate.
[[nodiscard]] std::unique_ptr<Session> make_planned_session(std::vector<Candidate> candidates, Plan plan);

/// Loads `model` on every backend of `registry` that can run it, then follows `known`, or measures a plan
/// where that is null. `plan` gets what is followed. Throws as `load_candidates` and `make_planned_session`.
[[nodiscard]] std::shared_ptr<Session> load_auto(const Registry& registry, const Model& model,
                                                 const SessionOptions& options, const Plan* known,
                                                 double budget_s, Plan& plan);

}  // namespace datasentinel
