#pragma once

#include <memory>

#include "core/backend.h"

namespace datasentinel {

[[nodiscard]] std::unique_ptr<Backend> make_fused_backend();

}  // namespace datasentinel
