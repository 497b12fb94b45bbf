#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/p_value.h"
#include "core/scorer.h"
#include "serving/cost_estimate.h"
#include "serving/request_statistics.h"
#include "serving/shadow.h"
#include "serving/state_store.h"
#include "serving/wall_clock.h"

namespace datasentinel {

/// What a model can tell beside its scores.
struct ModelAbilities {
  bool reconstructs = false;
  std::shared_ptr<const PValueTable> p_values = nullptr;  ///< Null for one that was not calibrated.
  std::shared_ptr<StateStore> states = nullptr;      ///< Of one with memory; versions of one graph share it.
  StreamRules rules = {};                            ///< Its own, by which it goes on with them.
  std::shared_ptr<const WallClock> clock = nullptr;  ///< Of one with a season: what its last column says.
  std::shared_ptr<Shadow> shadow = nullptr;  ///< What is to take the place of one with memory, if anything.
};

/// A model as requests name it. Holding one keeps the model alive, even when it is no longer served.
struct ServedModel {
  std::string name;
  std::string version;
  std::shared_ptr<Scorer> scorer;
  ModelAbilities abilities;
  std::shared_ptr<RequestStatistics> statistics;  ///< Kept up to date by every protocol that answers for it.
  mutable CostEstimate cost;                      ///< Kept up to date by what scores batches.
  mutable CostEstimate rest_cost;                 ///< Of a whole request over HTTP, by the bytes of its body.

  ServedModel(std::string name_, std::string version_, std::shared_ptr<Scorer> scorer_,
              ModelAbilities abilities_)
      : name(std::move(name_)),
        version(std::move(version_)),
        scorer(std::move(scorer_)),
        abilities(std::move(abilities_)),
        statistics(std::make_shared<RequestStatistics>()) {}

  /// The states of the streams of a model with memory; null for one without.
  [[nodiscard]] StateStore* states() const noexcept { return abilities.states.get(); }

  /// Whether rows may lack values: those of their streams are carried.
  [[nodiscard]] bool carries() const noexcept { return abilities.rules.carry.carries(); }

  /// All states that its rows change: the model's own and its shadow's, null where there are none.
  [[nodiscard]] std::array<StateStore*, 2> changed_states() const noexcept {
    return {states(), abilities.shadow == nullptr ? nullptr : &abilities.shadow->states()};
  }
};

/// The models being served, shared by all protocols. A protocol asks it anew for every batch and keeps the
/// answer for that batch only: so a new version takes effect on open connections, and rows already taken
/// finish on the model they were taken for.
///
/// Thread-safe.
class ModelTable {
 public:
  /// Serves a model from now on; it becomes the latest version of its name, and replaces one of the same
  /// version, whose statistics it goes on with where the scorer is the same. The first name ever put is the
  /// default until `set_default` says otherwise. Throws Error{invalid_argument} for an empty name or version,
  /// no scorer, or a model with memory whose states do not fit, or whose shadow takes other rows; a model
  /// without needs none, and carries no values.
  void put(std::string name, std::string version, std::shared_ptr<Scorer> scorer,
           ModelAbilities abilities = {});

  /// Serves this version no longer; the one put before it is then the latest. False when there is none.
  bool remove(std::string_view name, std::string_view version);

  /// Which model answers requests that name none. It may be put later. Throws Error{invalid_argument} for an
  /// empty name.
  void set_default(std::string name);

  /// The model for a request: an empty name stands for the default model, an empty version for the latest.
  /// Null when there is none.
  [[nodiscard]] std::shared_ptr<const ServedModel> find(std::string_view name,
                                                        std::string_view version) const;

  /// A number that grows with every change of the table.
  [[nodiscard]] std::uint64_t generation() const noexcept {
    return generation_.load(std::memory_order_acquire);
  }

 private:
  using Versions = std::vector<std::shared_ptr<const ServedModel>>;  ///< Of one name; the latest is last.

  mutable std::mutex mutex_;
  std::map<std::string, Versions, std::less<>> models_;
  std::string default_name_;
  std::atomic<std::uint64_t> generation_{0};
};

}  // namespace datasentinel
