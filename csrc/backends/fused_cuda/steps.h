#pragma once

#include <string>

#include "backends/fused/program.h"
#include "backends/fused_cuda/form.h"

namespace datasentinel::fused_cuda {

/// The text of a program's steps in one form: those of the score, then, where they are asked for, those of
/// the output and of the contributions.
[[nodiscard]] std::string all_steps(const fused::Program& program, Form& form);

}  // namespace datasentinel::fused_cuda
