#include "serving/model_table.h"

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace datasentinel {
namespace {

auto of_version(std::string_view version) {
  return [version](const std::shared_ptr<const ServedModel>& model) { return model->version == version; };
}

}  // namespace

void ModelTable::put(std::string name, std::string version, std::shared_ptr<Scorer> scorer,
                     ModelAbilities abilities) {
  if (name.empty() || version.empty() || scorer == nullptr) {
    throw Error(ErrorCode::invalid_argument, "a served model needs a name, a version and a scorer");
  }
  if (scorer->state_dim() != (abilities.states == nullptr ? 0 : abilities.states->state_size())) {
    throw Error(ErrorCode::invalid_argument,
                "a model with memory needs a store of states of its size, and one without needs none");
  }
  if (abilities.states != nullptr) {
    abilities.states->require_fit(abilities.rules, scorer->input_dim());
  } else if (abilities.rules.carry.carries()) {
    throw Error(ErrorCode::invalid_argument,
                "values that are missing are carried by a model with memory only");
  }
  if (const Shadow* const shadow = abilities.shadow.get();
      shadow != nullptr &&
      (abilities.states == nullptr || shadow->scorer().input_dim() != scorer->input_dim() ||
       shadow->scorer().state_dim() != shadow->states().state_size())) {
    throw Error(ErrorCode::invalid_argument,
                "a shadow is a model with memory, of as many columns as the one with memory that it follows");
  }
  if (abilities.shadow != nullptr) {
    abilities.shadow->states().require_fit(abilities.shadow->rules(), scorer->input_dim());
  }
  const auto model = std::make_shared<ServedModel>(std::move(name), std::move(version), std::move(scorer),
                                                   std::move(abilities));
  Versions replaced;  // Freed after the lock: it may hold the last reference to a large model.
  const std::lock_guard lock(mutex_);
  if (default_name_.empty()) default_name_ = model->name;
  Versions& versions = models_[model->name];
  if (const auto same = std::ranges::find_if(versions, of_version(model->version)); same != versions.end()) {
    if ((*same)->scorer == model->scorer) model->statistics = (*same)->statistics;
    replaced.push_back(std::move(*same));
    versions.erase(same);
  }
  versions.push_back(model);
  generation_.fetch_add(1, std::memory_order_release);
}

bool ModelTable::remove(std::string_view name, std::string_view version) {
  Versions removed;  // Freed after the lock.
  const std::lock_guard lock(mutex_);
  const auto named = models_.find(name);
  if (named == models_.end()) return false;
  Versions& versions = named->second;
  const auto found = std::ranges::find_if(versions, of_version(version));
  if (found == versions.end()) return false;
  removed.push_back(std::move(*found));
  versions.erase(found);
  if (versions.empty()) models_.erase(named);
  generation_.fetch_add(1, std::memory_order_release);
  return true;
}

void ModelTable::set_default(std::string name) {
  if (name.empty()) throw Error(ErrorCode::invalid_argument, "the default model needs a name");
  const std::lock_guard lock(mutex_);
  default_name_ = std::move(name);
  generation_.fetch_add(1, std::memory_order_release);
}

std::shared_ptr<const ServedModel> ModelTable::find(std::string_view name, std::string_view version) const {
  const std::lock_guard lock(mutex_);
  const auto named = models_.find(name.empty() ? std::string_view(default_name_) : name);
  if (named == models_.end()) return nullptr;
  const Versions& versions = named->second;
  if (version.empty()) return versions.back();
  const auto found = std::ranges::find_if(versions, of_version(version));
  return found == versions.end() ? nullptr : *found;
}

}  // namespace datasentinel
