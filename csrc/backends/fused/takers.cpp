#include "backends/fused/takers.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace datasentinel::fused {
namespace {

/// Takes one value's columns in any order.
bool takes_in_any_order(const Instruction& step) {
  switch (step.op) {
    case Op::min_columns:
    case Op::max_columns:
    case Op::smallest:
    case Op::largest: return true;
    default: return false;
  }
}

bool reads(const Instruction& step, int value) { return step.a == value || step.b == value; }

bool is_result(const Program& program, int value) {
  return value == program.score || value == program.state_next || value == program.output ||
         value == program.contributions;
}

/// Positions of the steps that read `value`, or none where it is also a result.
std::vector<std::size_t> readers_of(const Program& program, int value) {
  std::vector<std::size_t> positions;
  if (is_result(program, value)) return positions;
  for (std::size_t i = 0; i < program.instructions.size(); ++i) {
    if (reads(program.instructions[i], value)) positions.push_back(i);
  }
  return positions;
}

bool all_take_in_any_order(const Program& program, const std::vector<std::size_t>& positions) {
  return !positions.empty() && std::ranges::all_of(positions, [&](std::size_t i) {
    return takes_in_any_order(program.instructions[i]);
  });
}

/// Lets the readers of a scaled value scale themselves.
void fold_scaling(Program& program, std::size_t position) {
  const Instruction scaling = program.instructions[position];
  const auto positions = readers_of(program, scaling.out);
  if (!all_take_in_any_order(program, positions)) return;
  for (const std::size_t i : positions) {
    Instruction& reader = program.instructions[i];
    reader.a = scaling.a;
    reader.center = scaling.center;
    reader.scale = scaling.scale;
    reader.offset = scaling.offset;
  }
}

bool is_reduction(const Instruction& step) {
  switch (step.op) {
    case Op::sum:
    case Op::sum_squares:
    case Op::sum_difference: return true;
    default: return takes_in_any_order(step);
  }
}

/// Puts steps in an order in which few values live at a time: what a step needs is made right before it, and
/// a value is reduced as soon as it is there.
class InOrder {
 public:
  explicit InOrder(const Program& program)
      : program_(program),
        is_needed_(program.instructions.size(), false),
        is_done_(program.instructions.size(), false) {}

  Program take() {
    Program ordered = program_;
    add(program_.score);
    add(program_.state_next);
    ordered.score_instructions = steps_.size();
    add(program_.output);
    ordered.output_instructions = steps_.size();
    add(program_.contributions);
    ordered.instructions = std::move(steps_);
    return ordered;
  }

 private:
  void add(int result) {
    need(result);
    make(result);
  }

  void need(int value) {
    for (std::size_t i = 0; i < is_needed_.size(); ++i) {
      const Instruction& step = program_.instructions[i];
      if (value < 0 || step.out != value || is_needed_[i]) continue;
      is_needed_[i] = true;
      need(step.a);
      need(step.b);
    }
  }

  void make(int value) {
    for (std::size_t i = 0; i < is_done_.size(); ++i) {
      const Instruction& step = program_.instructions[i];
      if (value < 0 || step.out != value || is_done_[i]) continue;
      make(step.a);
      make(step.b);
      put(i);
    }
  }

  void put(std::size_t position) {
    if (is_done_[position]) return;
    is_done_[position] = true;
    steps_.push_back(program_.instructions[position]);
    const int made = program_.instructions[position].out;
    for (std::size_t i = 0; i < is_done_.size(); ++i) {
      const Instruction& step = program_.instructions[i];
      if (is_needed_[i] && is_reduction(step) && reads(step, made) && is_made(step.a) && is_made(step.b))
        put(i);
    }
  }

  [[nodiscard]] bool is_made(int value) const {
    for (std::size_t i = 0; i < is_done_.size(); ++i) {
      if (program_.instructions[i].out == value && !is_done_[i]) return false;
    }
    return true;
  }

  const Program& program_;
  std::vector<bool> is_needed_, is_done_;  ///< By step.
  std::vector<Instruction> steps_;
};

}  // namespace

Program in_order(Program program) {
  for (std::size_t i = 0; i < program.instructions.size(); ++i) {
    if (program.instructions[i].op == Op::affine) fold_scaling(program, i);
  }
  return InOrder(program).take();
}

std::size_t takers(const Program& program, std::size_t position) {
  const auto positions = readers_of(program, program.instructions[position].out);
  if (!all_take_in_any_order(program, positions)) return 0;
  // All belong to what is asked for together.
  for (const std::size_t end : {program.score_instructions, program.output_instructions}) {
    if (position < end && positions.back() >= end) return 0;
  }
  return positions.back() == position + positions.size() ? positions.size() : 0;
}

}  // namespace datasentinel::fused
