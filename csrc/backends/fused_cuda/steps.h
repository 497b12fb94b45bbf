#pragma once

#include <string>

#include "backends/fused/program.h"
#include "backends/fused_cuda/form.h"

namespace datasentinel::fused_cuda {

/// The text of a program's steps in one form: those of the score, then, where they are asked for, those of
/// the output and of the contributions.
///
/// Neighbouring steps on single values are one loop, in which a value that no other step needs stays in a
/// register; and threads wait for each other only where one reads or overwrites what another has written.
[[nodiscard]] std::string all_steps(const fused::Program& program, Form& form);

}  // namespace datasentinel::fused_cuda
