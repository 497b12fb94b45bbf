#include "core/plan.h"

#include <utility>

#include "core/error.h"

namespace datasentinel {

LoadedModel load_auto(const Registry& registry, const Model& model, const SessionOptions& options) {
  LoadedModel loaded;
  for (const auto& backend : registry.all()) {
    const BackendStatus status = backend->status();
    if (status.availability != Availability::available) {
      loaded.refusals.push_back(
          {std::string(backend->name()), std::string(to_string(status.availability)) + ": " + status.detail});
      continue;
    }
    try {
      loaded.session = backend->load(model, options);
      return loaded;
    } catch (const Error& error) {
      if (error.code() == ErrorCode::invalid_model) throw;
      loaded.refusals.push_back({std::string(backend->name()), error.what()});
    }
  }
  std::string message = "no backend can run this model";
  for (const auto& refusal : loaded.refusals) message += "; " + refusal.backend + ": " + refusal.reason;
  throw Error(ErrorCode::unavailable, message);
}

}  // namespace datasentinel
