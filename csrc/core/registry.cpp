#include "core/registry.h"

#include <string>
#include <utility>

#include "core/error.h"

namespace datasentinel {

void Registry::add(std::unique_ptr<Backend> backend) { backends_.push_back(std::move(backend)); }

Backend& Registry::find(std::string_view name) const {
  std::string known;
  for (const auto& backend : backends_) {
    if (backend->name() == name) return *backend;
    known += known.empty() ? "" : ", ";
    known += backend->name();
  }
  throw Error(ErrorCode::invalid_argument,
              "unknown backend '" + std::string(name) + "'; known: auto, " + known);
}

}  // namespace datasentinel
