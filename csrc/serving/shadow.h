#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "core/scorer.h"
#include "serving/state_store.h"
#include "serving/wall_clock.h"

namespace datasentinel {

/// A model with memory that is to take the place of a served one. It sees the rows of all streams beside that
/// one, and answers nobody, until its streams are warm.
///
/// Thread-safe.
class Shadow {
 public:
  Shadow(std::shared_ptr<Scorer> scorer, std::shared_ptr<StateStore> states, StreamRules rules,
         std::shared_ptr<const WallClock> clock = nullptr)
      : scorer_(std::move(scorer)),
        states_(std::move(states)),
        rules_(std::move(rules)),
        clock_(std::move(clock)) {}

  [[nodiscard]] Scorer& scorer() const noexcept { return *scorer_; }
  [[nodiscard]] StateStore& states() const noexcept { return *states_; }
  [[nodiscard]] const StreamRules& rules() const noexcept { return rules_; }
  /// Of one with a season: what its last column says; null for any other.
  [[nodiscard]] const WallClock* clock() const noexcept { return clock_.get(); }

  /// From now on it sees no more rows; the first reason stays.
  void fail(std::string reason) {
    const std::lock_guard lock(mutex_);
    if (failed_.load(std::memory_order_relaxed)) return;
    failure_ = std::move(reason);
    failed_.store(true, std::memory_order_relaxed);
  }
  [[nodiscard]] bool has_failed() const noexcept { return failed_.load(std::memory_order_relaxed); }
  /// Why it could not score rows; empty while it can.
  [[nodiscard]] std::string failure() const {
    const std::lock_guard lock(mutex_);
    return failure_;
  }

 private:
  std::shared_ptr<Scorer> scorer_;
  std::shared_ptr<StateStore> states_;
  StreamRules rules_;
  std::shared_ptr<const WallClock> clock_;
  mutable std::mutex mutex_;
  std::string failure_;
  std::atomic<bool> failed_{false};
};

}  // namespace datasentinel
