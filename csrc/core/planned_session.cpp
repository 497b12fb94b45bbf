#include <atomic>
#include <cstddef>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/plan.h"

namespace datasentinel {
namespace {

/// Thread-safe: the plan never changes, and a member's failure is an atomic flag.
class PlannedSession final : public Session {
 public:
  PlannedSession(std::vector<Candidate> candidates, Plan plan) : plan_(std::move(plan)) {
    for (auto& candidate : candidates) {
      members_.push_back(std::make_unique<Member>(std::move(candidate)));
    }
    for (const auto& step : plan_.steps) steps_.push_back({step.min_rows, index_of(step.backend)});
    if (steps_.empty() || steps_.front().min_rows != 1) {
      throw Error(ErrorCode::invalid_argument, "a plan's first step must start at 1 row");
    }
  }

  [[nodiscard]] std::size_t input_dim() const noexcept override {
    return members_.front()->candidate.session->input_dim();
  }

  void run(ConstRows rows, Outputs outputs) override {
    score(rows.rows, [&](Session& session) { session.run(rows, outputs); });
  }

  [[nodiscard]] Findings run_checked(ConstRows rows, Outputs outputs, float highest_normal) override {
    Findings findings;
    score(rows.rows,
          [&](Session& session) { findings = session.run_checked(rows, outputs, highest_normal); });
    return findings;
  }

  [[nodiscard]] std::size_t state_dim() const noexcept override {
    return members_.front()->candidate.session->state_dim();
  }

  /// A backend that fails half-way leaves states as they were only where before and after are apart; the
  /// batch is finished elsewhere from what it left.
  void step(ConstRows rows, States states, Outputs outputs) override {
    score(rows.rows, [&](Session& session) { session.step(rows, states, outputs); });
  }

  [[nodiscard]] bool on_device(std::size_t rows) const noexcept override {
    return members_[choose(rows)]->candidate.session->on_device(rows);
  }

  [[nodiscard]] DeviceScoring* device_scoring() noexcept override {
    for (const auto& member : members_) {
      if (member->failed.load(std::memory_order_relaxed)) continue;
      if (DeviceScoring* offered = member->candidate.session->device_scoring()) return offered;
    }
    return nullptr;
  }

  [[nodiscard]] std::string_view backend() const noexcept override {
    return members_[steps_.front().member]->candidate.backend;
  }

  [[nodiscard]] Facts facts() const override {
    Facts facts;
    for (const auto& step : plan_.steps) {
      facts.emplace_back("plan from " + std::to_string(step.min_rows) + " rows", step.backend);
    }
    for (const auto& member : members_) {
      if (member->failed.load(std::memory_order_acquire)) {
        facts.emplace_back(member->candidate.backend,
                           "failed while serving; not used any more: " + member->failure);
      }
      for (auto& [key, value] : member->candidate.session->facts()) {
        facts.emplace_back(member->candidate.backend + ": " + key, std::move(value));
      }
    }
    return facts;
  }

 private:
  struct Member {
    explicit Member(Candidate from) : candidate(std::move(from)) {}
    Candidate candidate;
    std::once_flag first_failure;
    std::string failure;  ///< Written once, before `failed`.
    std::atomic<bool> failed{false};
  };
  struct Step {
    std::size_t min_rows;
    std::size_t member;
  };

  static bool is_failure_of_backend(const Error& error) noexcept {
    return error.code() == ErrorCode::backend_failure || error.code() == ErrorCode::out_of_memory ||
           error.code() == ErrorCode::unavailable;
  }

  static void give_up(Member& member, const Error& error) {
    std::call_once(member.first_failure, [&] {
      member.failure = error.what();
      member.failed.store(true, std::memory_order_release);
    });
  }

  [[nodiscard]] std::size_t index_of(const std::string& backend) const {
    for (std::size_t i = 0; i < members_.size(); ++i) {
      if (members_[i]->candidate.backend == backend) return i;
    }
    throw Error(ErrorCode::invalid_argument, "the plan names backend '" + backend + "', which is not loaded");
  }

  [[nodiscard]] std::size_t choose(std::size_t rows) const noexcept {
    std::size_t member = steps_.front().member;
    for (std::size_t i = 1; i < steps_.size() && rows >= steps_[i].min_rows; ++i) member = steps_[i].member;
    return member;
  }

  template <typename Call>
  void score(std::size_t rows, Call call) {
    Member& member = *members_[choose(rows)];
    if (!member.failed.load(std::memory_order_relaxed)) {
      try {
        call(*member.candidate.session);
        return;
      } catch (const Error& error) {
        if (!is_failure_of_backend(error) || members_.size() == 1) throw;
        give_up(member, error);
      }
    }
    score_elsewhere(call);
  }

  template <typename Call>
  void score_elsewhere(Call call) {
    std::string reasons;
    for (const auto& member : members_) {
      if (member->failed.load(std::memory_order_relaxed)) continue;
      try {
        call(*member->candidate.session);
        return;
      } catch (const Error& error) {
        if (!is_failure_of_backend(error)) throw;
        give_up(*member, error);
        reasons += std::string("; ") + error.what();
      }
    }
    throw Error(ErrorCode::backend_failure, "every backend of the plan has failed" + reasons);
  }

  const Plan plan_;
  std::vector<std::unique_ptr<Member>> members_;  // In order of preference.
  std::vector<Step> steps_;
};

}  // namespace

std::unique_ptr<Session> make_planned_session(std::vector<Candidate> candidates, Plan plan) {
  return std::make_unique<PlannedSession>(std::move(candidates), std::move(plan));
}

}  // namespace datasentinel
