#include "backends/fused/frame_layout.h"

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <limits>
#include <map>
#include <set>
#include <utility>

#include "backends/fused/takers.h"

namespace datasentinel::fused {
namespace {

/// Room for whole vectors from any column of the value, as a Concat writes them and a range is read.
int padded(std::size_t width, bool is_shifted, int alignment) {
  const int columns = (static_cast<int>(width) + alignment - 1) / alignment * alignment;
  return is_shifted && alignment > 1 ? columns + alignment : columns;
}

struct Life {
  int first = 0;
  int last = 0;
  bool is_shifted = false;
};

/// Where a value lies: at its own beginning, or in another that it is a range of columns of.
struct Place {
  std::size_t value = 0;
  int column = 0;
};

/// Whether each column of the result is made of the same column of the operands alone.
bool is_by_column(Op op) {
  switch (op) {
    case Op::apply:
    case Op::affine:
    case Op::difference:
    case Op::add:
    case Op::subtract:
    case Op::multiply:
    case Op::divide:
    case Op::minimum:
    case Op::maximum: return true;
    default: return false;
  }
}

/// Puts what is made column by column where an operand lay that nothing needs any more.
void take_over_places(const Program& program, std::vector<Place>& places) {
  const std::size_t end = program.instructions.size();
  std::vector<std::size_t> last_use(places.size(), 0);
  for (std::size_t i = 0; i < end; ++i) {
    for (const int value : {program.instructions[i].a, program.instructions[i].b}) {
      if (value >= 0) last_use[static_cast<std::size_t>(value)] = i;
    }
  }
  for (const int value : {program.score, program.output, program.contributions}) {
    if (value >= 0) last_use[static_cast<std::size_t>(value)] = end;
  }
  for (std::size_t i = 0; i < end; ++i) {
    const Instruction& step = program.instructions[i];
    if (!is_by_column(step.op)) continue;
    const auto out = static_cast<std::size_t>(step.out);
    for (const int value : {step.b, step.a}) {
      if (value < 0) continue;
      const auto operand = static_cast<std::size_t>(value);
      if (last_use[operand] == i && program.widths[operand] == program.widths[out])
        places[out] = places[operand];
    }
  }
}

std::vector<Place> places_of(const Program& program, bool copies_ranges) {
  std::vector<Place> places(program.widths.size());
  for (std::size_t value = 0; value < places.size(); ++value) places[value] = {value, 0};
  if (copies_ranges) {
    take_over_places(program, places);
    return places;
  }
  for (const Instruction& instruction : program.instructions) {
    if (!is_range(instruction)) continue;
    const Place whole = places[static_cast<std::size_t>(instruction.a)];
    places[static_cast<std::size_t>(instruction.out)] = {whole.value,
                                                         whole.column + instruction.indices.front()};
  }
  return places;
}

/// In half steps: in the first half operands are read, in the second one results are written.
std::vector<Life> lives_of(const Program& program, const std::vector<Place>& places,
                           const std::function<bool(const Instruction&)>& overwrites, bool takes_parts) {
  const Links links(program);
  const int steps = static_cast<int>(program.instructions.size());
  const int end = 2 * steps;
  std::vector<Life> lives(program.widths.size(), Life{end, -1, false});
  const auto touch = [&](int value, int when) {
    if (value < 0) return;
    Life& life = lives[places[static_cast<std::size_t>(value)].value];
    life.first = std::min(life.first, when);
    life.last = std::max(life.last, when);
  };
  touch(program.input, -1);
  touch(program.state, -1);
  for (const Instruction& instruction : program.instructions) {
    if (!is_range(instruction)) continue;
    lives[places[static_cast<std::size_t>(instruction.a)].value].is_shifted = true;
  }
  for (int i = 0; i < steps; ++i) {
    const Instruction& instruction = program.instructions[static_cast<std::size_t>(i)];
    touch(instruction.a, 2 * i);
    touch(instruction.b, 2 * i);
    if (!overwrites || !overwrites(instruction)) touch(instruction.out, 2 * i);
    touch(instruction.out, 2 * i + 1);
    if (takes_parts && (instruction.op == Op::dense || instruction.op == Op::distances)) {
      const int end_of_takers =
          2 * (i + static_cast<int>(takers(program, links, static_cast<std::size_t>(i)))) + 1;
      touch(instruction.a, end_of_takers);
      touch(instruction.out, end_of_takers);
    }
    // Whole vectors of one window's results reach into the next one's place.
    if (instruction.dense.windows > 1) lives[static_cast<std::size_t>(instruction.out)].is_shifted = true;
    if (instruction.op == Op::copy) lives[static_cast<std::size_t>(instruction.out)].is_shifted = true;
  }
  touch(program.score, end);
  touch(program.state_next, end);
  touch(program.output, end);
  touch(program.contributions, end);
  return lives;
}

/// The columns of a frame that nothing lies in, of which the last have no end.
class Gaps {
 public:
  Gaps() { insert(0, std::numeric_limits<int>::max()); }

  /// The first place that is wide enough, which is no gap any more. Of many gaps few have different sizes.
  int take(int width) {
    int begin = std::numeric_limits<int>::max();
    for (auto size = begins_.lower_bound(width); size != begins_.end(); ++size) {
      begin = std::min(begin, *size->second.begin());
    }
    const int end = erase(ends_.find(begin));
    if (begin + width < end) insert(begin + width, end);
    return begin;
  }

  void release(int begin, int end) {
    const auto next = ends_.lower_bound(begin);
    const auto previous = next == ends_.begin() ? ends_.end() : std::prev(next);
    if (next != ends_.end() && next->first == end) end = erase(next);
    if (previous != ends_.end() && previous->second == begin) {
      begin = previous->first;
      erase(previous);
    }
    insert(begin, end);
  }

 private:
  void insert(int begin, int end) {
    ends_.emplace(begin, end);
    begins_[end - begin].insert(begin);
  }

  int erase(std::map<int, int>::iterator gap) {
    const auto [begin, end] = *gap;
    const auto size = begins_.find(end - begin);
    size->second.erase(begin);
    if (size->second.empty()) begins_.erase(size);
    ends_.erase(gap);
    return end;
  }

  std::map<int, int> ends_;              ///< By where they begin.
  std::map<int, std::set<int>> begins_;  ///< By size.
};

/// A frame to put values into.
class Frame {
 public:
  Frame(const Program& program, const std::vector<Life>& lives, int alignment)
      : program_(program), lives_(lives), alignment_(alignment) {
    layout_.offsets.assign(lives.size(), 0);
  }

  [[nodiscard]] int width(std::size_t value) const {
    return padded(program_.widths[value], lives_[value].is_shifted, alignment_);
  }

  void put(std::size_t value, int begin) {
    const int end = begin + width(value);
    layout_.offsets[value] = begin;
    layout_.columns = std::max(layout_.columns, end);
    const int output_end = 2 * static_cast<int>(program_.output_instructions);
    if (lives_[value].first < output_end) layout_.output_columns = std::max(layout_.output_columns, end);
  }

  [[nodiscard]] const FrameLayout& layout() const { return layout_; }

 private:
  const Program& program_;
  const std::vector<Life>& lives_;
  const int alignment_;
  FrameLayout layout_;
};

/// Puts one value after the other, as their lives begin, where there is room first.
FrameLayout laid_out_in_time(const std::vector<std::size_t>& order, const std::vector<Life>& lives,
                             Frame frame) {
  Gaps gaps;
  std::multimap<int, std::size_t> alive;  // by the end of their lives
  for (const std::size_t value : order) {
    const auto dead = alive.lower_bound(lives[value].first);
    for (auto i = alive.begin(); i != dead; ++i) {
      const int begin = frame.layout().offsets[i->second];
      gaps.release(begin, begin + frame.width(i->second));
    }
    alive.erase(alive.begin(), dead);
    frame.put(value, gaps.take(frame.width(value)));
    alive.emplace(lives[value].last, value);
  }
  return frame.layout();
}

/// Puts one value after the other, in any order, where there is room first; takes quadratic time.
FrameLayout laid_out_in_order(const std::vector<std::size_t>& order, const std::vector<Life>& lives,
                              Frame frame) {
  std::vector<std::size_t> placed;  // by position
  const std::vector<int>& offsets = frame.layout().offsets;
  for (const std::size_t value : order) {
    const Life& life = lives[value];
    int begin = 0;
    for (const std::size_t other : placed) {
      const Life& its = lives[other];
      if (its.last < life.first || life.last < its.first) continue;
      if (offsets[other] - begin >= frame.width(value)) break;
      begin = std::max(begin, offsets[other] + frame.width(other));
    }
    placed.insert(
        std::ranges::upper_bound(placed, begin, {}, [&](std::size_t other) { return offsets[other]; }),
        value);
    frame.put(value, begin);
  }
  return frame.layout();
}

}  // namespace

FrameLayout lay_out(const Program& program, bool copies_ranges,
                    const std::function<bool(const Instruction&)>& overwrites) {
  const std::vector<Place> places = places_of(program, copies_ranges);
  const std::vector<Life> lives = lives_of(program, places, overwrites, !copies_ranges);
  const int alignment = copies_ranges ? 1 : kWidestVector;
  std::vector<std::size_t> order;
  for (std::size_t value = 0; value < lives.size(); ++value) {
    if (lives[value].last >= lives[value].first) order.push_back(value);
  }
  std::ranges::stable_sort(order, {}, [&](std::size_t value) { return lives[value].first; });
  const Frame frame(program, lives, alignment);
  FrameLayout layout = laid_out_in_time(order, lives, frame);
  // Wide values that have to go around narrow ones may leave gaps.
  constexpr std::size_t kFewValues = 4096;
  if (order.size() <= kFewValues) {
    std::ranges::stable_sort(order, std::greater<>{},
                             [&](std::size_t value) { return program.widths[value]; });
    FrameLayout other = laid_out_in_order(order, lives, frame);
    if (other.columns < layout.columns) layout = std::move(other);
  }
  for (std::size_t value = 0; value < places.size(); ++value) {
    layout.offsets[value] = layout.offsets[places[value].value] + places[value].column;
  }
  // Rows a multiple of 4 KiB apart would compete for the same cache sets.
  if (layout.columns % 1024 == 0) layout.columns += kWidestVector;
  return layout;
}

}  // namespace datasentinel::fused
