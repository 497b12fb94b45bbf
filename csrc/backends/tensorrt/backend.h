#pragma once

#include <memory>

#include "core/backend.h"

namespace datasentinel {

[[nodiscard]] std::unique_ptr<Backend> make_tensorrt_backend();

}  // namespace datasentinel
