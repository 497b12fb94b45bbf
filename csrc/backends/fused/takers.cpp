#include "backends/fused/takers.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace datasentinel::fused {
namespace {

using Positions = Links::Positions;

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

bool is_result(const Program& program, int value) {
  return value == program.score || value == program.state_next || value == program.output ||
         value == program.contributions;
}

bool all_take_in_any_order(const Program& program, const Positions& positions) {
  return !positions.empty() && std::ranges::all_of(positions, [&](std::size_t i) {
    return takes_in_any_order(program.instructions[i]);
  });
}

bool is_reduction(const Instruction& step) {
  switch (step.op) {
    case Op::sum:
    case Op::sum_squares:
    case Op::sum_difference: return true;
    default: return takes_in_any_order(step);
  }
}

/// Lets the readers of scaled values scale themselves.
void fold_scaling(Program& program) {
  const Links links(program);  // Once folded, a reader has no other scaling behind it.
  for (const Instruction& scaling : program.instructions) {
    if (scaling.op != Op::affine || is_result(program, scaling.out)) continue;
    const Positions& positions = links.readers(scaling.out);
    if (!all_take_in_any_order(program, positions)) continue;
    for (const std::size_t i : positions) {
      Instruction& reader = program.instructions[i];
      reader.a = scaling.a;
      reader.center = scaling.center;
      reader.scale = scaling.scale;
      reader.offset = scaling.offset;
    }
  }
}

/// Puts steps in an order in which few values live at a time: what a step needs is made right before it, and
/// a value is reduced as soon as it is there. Graphs may be deep, so nothing here recurses.
class InOrder {
 public:
  explicit InOrder(const Program& program)
      : program_(program),
        links_(program),
        is_needed_(program.instructions.size(), false),
        is_done_(program.instructions.size(), false),
        unmade_(program.widths.size(), 0) {
    for (const Instruction& step : program.instructions) ++unmade_[static_cast<std::size_t>(step.out)];
  }

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
  /// A step to put, and how many of its operands have been asked for.
  struct Waiting {
    std::size_t position = 0;
    int asked = 0;
  };

  void add(int result) {
    need(result);
    make(result);
  }

  void need(int result) {
    std::vector<int> values{result};
    while (!values.empty()) {
      const int value = values.back();
      values.pop_back();
      if (value < 0) continue;
      for (const std::size_t i : links_.writers(value)) {
        if (is_needed_[i]) continue;
        is_needed_[i] = true;
        values.push_back(program_.instructions[i].a);
        values.push_back(program_.instructions[i].b);
      }
    }
  }

  void make(int result) {
    std::vector<Waiting> waiting;
    const auto ask = [&](int value) {
      if (is_made(value)) return;
      const Positions& writers = links_.writers(value);
      for (auto i = writers.rbegin(); i != writers.rend(); ++i) waiting.push_back({.position = *i});
    };
    ask(result);
    while (!waiting.empty()) {
      const auto [position, asked] = waiting.back();
      if (is_done_[position] || asked == 2) {
        waiting.pop_back();
        put(position);
        continue;
      }
      ++waiting.back().asked;
      const Instruction& step = program_.instructions[position];
      ask(asked == 0 ? step.a : step.b);
    }
  }

  void put(std::size_t first) {
    Positions ready{first};
    while (!ready.empty()) {
      const std::size_t position = ready.back();
      ready.pop_back();
      const Instruction& step = program_.instructions[position];
      if (is_done_[position] || !is_made(step.a) || !is_made(step.b)) continue;
      is_done_[position] = true;
      steps_.push_back(step);
      if (--unmade_[static_cast<std::size_t>(step.out)] != 0) continue;
      const Positions& readers = links_.readers(step.out);
      for (auto i = readers.rbegin(); i != readers.rend(); ++i) {
        if (is_needed_[*i] && is_reduction(program_.instructions[*i])) ready.push_back(*i);
      }
    }
  }

  [[nodiscard]] bool is_made(int value) const {
    return value < 0 || unmade_[static_cast<std::size_t>(value)] == 0;
  }

  const Program& program_;
  const Links links_;
  std::vector<bool> is_needed_, is_done_;  ///< By step.
  std::vector<std::size_t> unmade_;        ///< By value: how many of its writers are not done.
  std::vector<Instruction> steps_;
};

}  // namespace

Program in_order(Program program) {
  fold_scaling(program);
  return InOrder(program).take();
}

std::size_t takers(const Program& program, const Links& links, std::size_t position) {
  const int value = program.instructions[position].out;
  const Positions& positions = links.readers(value);
  if (is_result(program, value) || !all_take_in_any_order(program, positions)) return 0;
  // All belong to what is asked for together.
  for (const std::size_t end : {program.score_instructions, program.output_instructions}) {
    if (position < end && positions.back() >= end) return 0;
  }
  return positions.back() == position + positions.size() ? positions.size() : 0;
}

}  // namespace datasentinel::fused
