#include "serving/stream_scorer.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace datasentinel {
namespace {

void copy_row(const float* from, float* to, std::size_t row, std::size_t columns) {
  if (to != nullptr) std::copy_n(from + row * columns, columns, to);
}

}  // namespace

void StreamScorer::check(const Scorer& scorer, const CarryRule& rule, ConstRows rows) {
  if (!rule.carries() || rule.first.size() != rows.columns) return scorer.check(rows);
  if (const auto cell = rule.find_unusable(rows)) scorer.refuse(*cell);
}

void StreamScorer::score(Scorer& scorer, const StreamRules& rules, StateStore& states,
                         std::span<const StreamPart> parts, const StateStore* leader) {
  make_lanes(parts);
  if (lanes_.empty()) return;
  const std::size_t carry_size = rules.carry.size();
  streams_.clear();
  for (const Lane& lane : lanes_) streams_.push_back(lane.stream);
  states_.clear();
  carried_.clear();
  times_s_.resize(has_times_ ? lanes_.size() : 0);
  states.read(streams_, rules.carry, states_.extend(lanes_.size() * states.state_size()),
              has_times_ ? times_s_.data() : nullptr,
              rules.carry.carries() ? carried_.extend(lanes_.size() * carry_size) : nullptr);
  if (has_times_) parts = follow_times(parts, rules, scorer.input_dim());
  filled_.clear();
  std::uint64_t stale_rows = 0;
  try {
    if (rules.carry.carries()) stale_rows = carry(parts, rules.carry);
    score_lanes(scorer, parts);
  } catch (...) {
    for (float* const value : filled_) *value = std::numeric_limits<float>::quiet_NaN();
    throw;
  }

  // Only now has nothing gone wrong.
  if (stale_rows != 0) states.count_stale_rows(stale_rows);
  std::size_t kept = 0;
  const auto keep = [&kept](float* all, std::size_t lane, std::size_t size) {
    if (kept != lane) std::copy_n(all + lane * size, size, all + kept * size);
  };
  for (std::size_t i = 0; i < lanes_.size(); ++i) {
    if (lanes_[i].ended) {
      states.forget(lanes_[i].stream);
      continue;
    }
    keep(states_.data(), i, states.state_size());
    keep(carried_.data(), i, carry_size);
    if (has_times_) times_s_[kept] = times_s_[i];
    streams_[kept++] = lanes_[i].stream;
  }
  const auto kept_streams = std::span(streams_).first(kept);
  if (leader != nullptr && rules.carry.carries() && leader->carried_size() == carry_size) {
    leader->read(kept_streams, rules.carry, nullptr, nullptr, carried_.data());
  }
  states.write(kept_streams, rules, states_.data(), has_times_ ? times_s_.data() : nullptr,
               rules.carry.carries() ? carried_.data() : nullptr);
  for (FloatBuffer* buffer :
       {&states_, &carried_, &extra_steps_, &rows_, &scores_, &reconstructions_, &contributions_}) {
    buffer->recycle();
  }
}

void StreamScorer::score_lanes(Scorer& scorer, std::span<const StreamPart> parts) {
  std::size_t active = lanes_.size();
  for (std::size_t turn = 0; active > 1; ++turn) {
    step(scorer, parts, active);
    while (active > 0 && lanes_[active - 1].rows == turn + 1) --active;
  }
  if (active == 1) scan(scorer, parts);
}

void StreamScorer::make_lanes(std::span<const StreamPart> parts) {
  lanes_.clear();
  lane_of_.clear();
  wanted_ = {};
  has_times_ = false;
  next_.assign(parts.size(), kNone);
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const StreamPart& part = parts[i];
    if (part.count == 0) continue;
    has_times_ = has_times_ || part.times_s != nullptr;
    if (part.outputs.scores != nullptr) wanted_.scores = part.outputs.scores;
    if (part.outputs.reconstructions != nullptr) wanted_.reconstructions = part.outputs.reconstructions;
    if (part.outputs.contributions != nullptr) wanted_.contributions = part.outputs.contributions;
    // Mostly there is one part, or each is of the same stream as the last one.
    std::size_t at = lanes_.empty() || lanes_.back().stream != part.stream ? kNone : lanes_.size() - 1;
    if (at == kNone) {
      if (lanes_.size() == 1) lane_of_.emplace(lanes_.front().stream, 0);
      at = lanes_.empty() ? 0 : lane_of_.try_emplace(part.stream, lanes_.size()).first->second;
      if (at == lanes_.size()) lanes_.push_back({.stream = part.stream, .first = i});
    }
    Lane& lane = lanes_[at];
    if (lane.last != kNone) next_[lane.last] = i;
    lane.last = i;
    lane.rows += part.count;
    lane.ended = part.ends;
  }
  const auto is_longer = [](const Lane& a, const Lane& b) { return a.rows > b.rows; };
  if (!std::ranges::is_sorted(lanes_, is_longer)) std::ranges::stable_sort(lanes_, is_longer);
}

std::span<const StreamPart> StreamScorer::follow_times(std::span<const StreamPart> parts,
                                                       const StreamRules& rules, std::size_t columns) {
  constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();
  constexpr double kMostSteps = 1e6;  // Whatever was remembered has faded, and a state stays finite.
  std::vector<float*> extra_of(rules.row_s > 0 ? parts.size() : 0);
  if (rules.row_s > 0) {
    std::size_t rows = 0;
    for (const StreamPart& part : parts) rows += part.count;
    extra_steps_.clear();
    float* room = extra_steps_.extend(rows);
    timed_.assign(parts.begin(), parts.end());
    for (std::size_t i = 0; i < parts.size(); ++i) {
      timed_[i].extra_steps = extra_of[i] = room;
      room += parts[i].count;
    }
    parts = timed_;
  }
  cuts_.clear();
  for (std::size_t i = 0; i < lanes_.size(); ++i) {
    double& last_s = times_s_[i];
    for (std::size_t at = lanes_[i].first; at != kNone; at = next_[at]) {
      const StreamPart& part = parts[at];
      if (part.starts) last_s = kUnknown;
      for (std::size_t row = 0; row < part.count; ++row) {
        const double time_s = part.times_s == nullptr ? kUnknown : part.times_s[row];
        const double step_s = time_s - last_s;
        if (step_s > rules.gap_s) cuts_.push_back({.part = at, .row = row});
        if (rules.row_s > 0) {
          const bool is_usual = std::isnan(step_s) || step_s > rules.gap_s;
          const double steps = std::min(std::max(step_s, 0.0) / rules.row_s, kMostSteps);
          extra_of[at][row] = is_usual ? 0 : static_cast<float>(steps - 1);
        }
        // A row that comes late takes nothing back: the next is as much later as it would be without it. A
        // clock that was set back by more than a gap counts from there.
        if (!(last_s - time_s > 0 && last_s - time_s <= rules.gap_s)) last_s = time_s;
      }
      if (part.ends) last_s = kUnknown;
    }
  }
  return cuts_.empty() ? parts : split_at_cuts(parts, columns);
}

std::span<const StreamPart> StreamScorer::split_at_cuts(std::span<const StreamPart> parts,
                                                        std::size_t columns) {
  std::ranges::sort(cuts_);
  split_.clear();
  auto cut = cuts_.cbegin();
  for (std::size_t i = 0; i < parts.size(); ++i) {
    StreamPart rest = parts[i];
    for (std::size_t done = 0; cut != cuts_.cend() && cut->part == i; ++cut) {
      const std::size_t count = cut->row - done;
      if (count != 0) {
        split_.push_back(rest);
        split_.back().count = count;
        split_.back().ends = false;
        rest = rest.from_row(count, columns);
      }
      rest.starts = true;
      done = cut->row;
    }
    split_.push_back(rest);
  }
  make_lanes(split_);  // In the same order: each has as many rows as before.
  return split_;
}

std::uint64_t StreamScorer::carry(std::span<const StreamPart> parts, const CarryRule& rule) {
  const std::size_t columns = rule.first.size();
  std::uint64_t stale_rows = 0;
  for (std::size_t i = 0; i < lanes_.size(); ++i) {
    float* const last = carried_.data() + i * rule.size();
    float* const rows_since = last + columns;
    for (std::size_t at = lanes_[i].first; at != kNone; at = next_[at]) {
      const StreamPart& part = parts[at];
      if (part.starts) rule.begin(last);
      float* value = part.to_fill;
      for (std::size_t row = 0; row < part.count; ++row) {
        bool is_stale = false;
        for (std::size_t column = 0; column < columns; ++column, ++value) {
          if (std::isnan(*value)) {
            filled_.push_back(value);
            *value = last[column];
            ++rows_since[column];
            is_stale = is_stale || rule.is_stale(last, column);
          } else {
            last[column] = *value;
            rows_since[column] = 0;
          }
        }
        stale_rows += static_cast<std::uint64_t>(is_stale);
      }
      if (part.ends) rule.begin(last);
    }
  }
  return stale_rows;
}

void StreamScorer::go_to_row(Lane& lane, std::span<const StreamPart> parts, float* state,
                             std::size_t state_size) {
  const bool begins = lane.part == kNone;
  if (!begins && lane.done < parts[lane.part].count) return;
  const bool after_end = !begins && parts[lane.part].ends;
  lane.part = begins ? lane.first : next_[lane.part];
  lane.done = 0;
  if (after_end || parts[lane.part].starts) std::fill_n(state, state_size, 0.0F);
}

void StreamScorer::step(Scorer& scorer, std::span<const StreamPart> parts, std::size_t count) {
  const std::size_t columns = scorer.input_dim();
  const std::size_t state_size = scorer.state_dim();
  rows_.clear();
  float* const rows = rows_.extend(count * columns);
  for (std::size_t i = 0; i < count; ++i) {
    Lane& lane = lanes_[i];
    float* const state = states_.data() + i * state_size;
    go_to_row(lane, parts, state, state_size);
    const StreamPart& part = parts[lane.part];
    if (part.extra_steps != nullptr) state[state_size - 2] = part.extra_steps[lane.done];
    std::copy_n(part.rows + lane.done * columns, columns, rows + i * columns);
  }
  const auto room = [](FloatBuffer& buffer, bool is_wanted, std::size_t size) -> float* {
    buffer.clear();
    return is_wanted ? buffer.extend(size) : nullptr;
  };
  const Outputs outputs{
      .scores = room(scores_, wanted_.scores != nullptr, count),
      .reconstructions = room(reconstructions_, wanted_.reconstructions != nullptr, count * columns),
      .contributions = room(contributions_, wanted_.contributions != nullptr, count * columns)};
  scorer.step({.data = rows, .rows = count, .columns = columns}, states_.data(), outputs);
  for (std::size_t i = 0; i < count; ++i) {
    Lane& lane = lanes_[i];
    const StreamPart& part = parts[lane.part];
    const Outputs to = part.outputs.from_row(lane.done, columns);
    copy_row(outputs.scores, to.scores, i, 1);
    copy_row(outputs.reconstructions, to.reconstructions, i, columns);
    copy_row(outputs.contributions, to.contributions, i, columns);
    if (part.warming != nullptr) {
      const bool is_warming = scorer.is_warming(states_.data() + i * state_size);
      part.warming[lane.done] = static_cast<std::uint8_t>(is_warming);
    }
    ++lane.done;
  }
}

void StreamScorer::scan(Scorer& scorer, std::span<const StreamPart> parts) {
  const std::size_t columns = scorer.input_dim();
  Lane& lane = lanes_.front();
  float* const state = states_.data();
  for (;;) {
    const bool is_done = lane.part != kNone && lane.done == parts[lane.part].count;
    if (is_done && next_[lane.part] == kNone) return;
    go_to_row(lane, parts, state, scorer.state_dim());
    const StreamPart& part = parts[lane.part];
    const std::size_t count = part.count - lane.done;
    const StreamPart rest = part.from_row(lane.done, columns);
    const std::size_t warming = scorer.scan({.data = rest.rows, .rows = count, .columns = columns}, state,
                                            rest.outputs, rest.extra_steps);
    for (std::size_t i = 0; part.warming != nullptr && i < count; ++i) {
      part.warming[lane.done + i] = static_cast<std::uint8_t>(i < warming);
    }
    lane.done = part.count;
  }
}

}  // namespace datasentinel
