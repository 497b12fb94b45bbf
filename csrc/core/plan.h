#pragma once

#include <memory>
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

/// What `auto` decided.
struct LoadedModel {
  std::unique_ptr<Session> session;
  std::vector<Refusal> refusals;
};

/// Loads `model` on the first backend of `registry` that can run it. Throws Error{unavailable} that lists
/// every refusal when none can; a broken model (invalid_model) is an error at once.
[[nodiscard]] LoadedModel load_auto(const Registry& registry, const Model& model,
                                    const SessionOptions& options);

}  // namespace datasentinel
