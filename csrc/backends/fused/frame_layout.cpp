#include "backends/fused/frame_layout.h"

#include <algorithm>
#include <cstddef>

namespace datasentinel::fused {
namespace {

constexpr int kAlignment = 16;  // the widest vector

/// Room for whole vectors from any column of the value, as a Concat writes them and a range is read.
int padded(std::size_t width, bool is_shifted) {
  const int columns = (static_cast<int>(width) + kAlignment - 1) / kAlignment * kAlignment;
  return is_shifted ? columns + kAlignment : columns;
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

std::vector<Place> places_of(const Program& program, bool copies_ranges) {
  std::vector<Place> places(program.widths.size());
  for (std::size_t value = 0; value < places.size(); ++value) places[value] = {value, 0};
  if (copies_ranges) return places;
  for (const Instruction& instruction : program.instructions) {
    if (!is_range(instruction)) continue;
    const Place whole = places[static_cast<std::size_t>(instruction.a)];
    places[static_cast<std::size_t>(instruction.out)] = {whole.value,
                                                         whole.column + instruction.indices.front()};
  }
  return places;
}

std::vector<Life> lives_of(const Program& program, const std::vector<Place>& places) {
  const int end = static_cast<int>(program.instructions.size());
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
  for (int i = 0; i < end; ++i) {
    const Instruction& instruction = program.instructions[static_cast<std::size_t>(i)];
    touch(instruction.a, i);
    touch(instruction.b, i);
    touch(instruction.out, i);
    if (instruction.op == Op::copy) lives[static_cast<std::size_t>(instruction.out)].is_shifted = true;
  }
  touch(program.score, end);
  touch(program.state_next, end);
  touch(program.output, end);
  touch(program.contributions, end);
  return lives;
}

}  // namespace

FrameLayout lay_out(const Program& program, bool copies_ranges) {
  const std::vector<Place> places = places_of(program, copies_ranges);
  const std::vector<Life> lives = lives_of(program, places);
  std::vector<std::size_t> order;
  for (std::size_t value = 0; value < lives.size(); ++value) {
    if (lives[value].last >= lives[value].first) order.push_back(value);
  }
  std::sort(order.begin(), order.end(), [&](std::size_t x, std::size_t y) {
    return lives[x].first != lives[y].first ? lives[x].first < lives[y].first : x < y;
  });

  const int output_instructions = static_cast<int>(program.output_instructions);
  FrameLayout layout;
  layout.offsets.assign(lives.size(), 0);
  struct Placed {
    int begin;
    int end;
    int last;
  };
  std::vector<Placed> alive;  // by position
  for (const std::size_t value : order) {
    const Life& life = lives[value];
    std::erase_if(alive, [&](const Placed& placed) { return placed.last < life.first; });
    const int width = padded(program.widths[value], life.is_shifted);
    int begin = 0;
    auto next = alive.begin();
    for (; next != alive.end() && next->begin - begin < width; ++next) begin = next->end;
    alive.insert(next, Placed{begin, begin + width, life.last});
    layout.offsets[value] = begin;
    layout.columns = std::max(layout.columns, begin + width);
    if (life.first < output_instructions) {
      layout.output_columns = std::max(layout.output_columns, begin + width);
    }
  }
  for (std::size_t value = 0; value < places.size(); ++value) {
    layout.offsets[value] = layout.offsets[places[value].value] + places[value].column;
  }
  // Rows a multiple of 4 KiB apart would compete for the same cache sets.
  if (layout.columns % 1024 == 0) layout.columns += kAlignment;
  return layout;
}

}  // namespace datasentinel::fused
