#pragma once

#include <cstddef>
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

/// Whether the step after the one at `position` is the only reader of its result, and one to which it makes
/// no difference in what order it gets the columns.
[[nodiscard]] bool next_takes_all(const fused::Program& program, std::size_t position);

}  // namespace datasentinel::fused_cuda
