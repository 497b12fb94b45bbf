#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/scorer.h"
#include "serving/float_buffer.h"
#include "serving/state_store.h"

namespace datasentinel {

/// Rows of one stream that follow each other, and where their answers go.
struct StreamPart {
  std::string_view stream;
  const float* rows = nullptr;
  std::size_t count = 0;
  Outputs outputs = {};
  std::uint8_t* warming = nullptr;     ///< One a row, 1 for a row that is; may be null.
  const double* times_s = nullptr;     ///< When each was taken; null where that is not known.
  float* to_fill = nullptr;            ///< The rows, to fill in what is carried; for a model that carries.
  const float* extra_steps = nullptr;  ///< The scorer's own; see `StreamRules::row_s`.
  bool starts = false;                 ///< The stream begins anew before these rows.
  bool ends = false;                   ///< The stream is forgotten after them.

  /// Of these rows, those from `first` on.
  [[nodiscard]] StreamPart from_row(std::size_t first, std::size_t columns) const noexcept {
    StreamPart part = *this;
    part.rows += first * columns;
    part.count -= first;
    part.outputs = outputs.from_row(first, columns);
    if (warming != nullptr) part.warming += first;
    if (times_s != nullptr) part.times_s += first;
    if (to_fill != nullptr) part.to_fill += first * columns;
    if (extra_steps != nullptr) part.extra_steps += first;
    part.starts = starts && first == 0;
    return part;
  }
};

/// Scores rows of many streams by a model with memory, different streams side by side.
///
/// One thread at a time.
class StreamScorer {
 public:
  /// Throws Error{invalid_argument} for rows of another width, and for values that can be neither scored nor
  /// carried.
  static void check(const Scorer& scorer, const CarryRule& rule, ConstRows rows);

  /// Answers every part; those of one stream follow each other in the order given. A stream begins anew after
  /// a gap of more than `StreamRules::gap_s` between two rows whose times are known. Where the rules carry
  /// values, those that are missing are filled in. Throws as `Scorer::step`; then every stream and every row
  /// is as it was before.
  ///
  /// A model that follows another, `leader`, sees rows that this one, just now, has filled in. By rules that
  /// carry as much, it knows from there what is carried, and for how long.
  void score(Scorer& scorer, const StreamRules& rules, StateStore& states, std::span<const StreamPart> parts,
             const StateStore* leader = nullptr);

 private:
  static constexpr std::size_t kNone = static_cast<std::size_t>(-1);

  /// A stream's parts, and how far they are scored.
  struct Lane {
    std::string_view stream;
    std::size_t first = kNone;  ///< The first of its parts; `next_` has those that follow.
    std::size_t last = kNone;
    std::size_t rows = 0;
    std::size_t part = kNone;  ///< The one at hand, and how many of its rows are scored.
    std::size_t done = 0;
    bool ended = false;  ///< Nothing followed the end of the stream.
  };

  /// A row that a stream begins anew with.
  struct Cut {
    std::size_t part = 0;
    std::size_t row = 0;
    auto operator<=>(const Cut&) const = default;
  };

  void make_lanes(std::span<const StreamPart> parts);
  /// Ends parts at gaps, tells how much later than usual each row is, and brings `times_s_`, one a lane, up
  /// to date. Returns the parts to score.
  [[nodiscard]] std::span<const StreamPart> follow_times(std::span<const StreamPart> parts,
                                                         const StreamRules& rules, std::size_t columns);
  [[nodiscard]] std::span<const StreamPart> split_at_cuts(std::span<const StreamPart> parts,
                                                          std::size_t columns);
  /// Fills in what is missing, and brings `carried_`, one a lane, up to date. Returns how many of the rows
  /// have a stale column.
  std::uint64_t carry(std::span<const StreamPart> parts, const CarryRule& rule);
  void score_lanes(Scorer& scorer, std::span<const StreamPart> parts);
  /// Goes to the lane's next row; `state` begins anew where its stream does.
  void go_to_row(Lane& lane, std::span<const StreamPart> parts, float* state, std::size_t state_size);
  /// The next row of each of the first `count` lanes, side by side.
  void step(Scorer& scorer, std::span<const StreamPart> parts, std::size_t count);
  /// All rows that are left of the first lane, one after the other.
  void scan(Scorer& scorer, std::span<const StreamPart> parts);

  Outputs wanted_;  ///< Not null for what any part asks for.
  std::unordered_map<std::string_view, std::size_t> lane_of_;
  std::vector<Lane> lanes_;
  std::vector<std::size_t> next_;  ///< Of each part, the next one of its stream.
  std::vector<std::string_view> streams_;
  bool has_times_ = false;  ///< Any part.
  std::vector<double> times_s_;
  std::vector<Cut> cuts_;
  std::vector<StreamPart> timed_;
  std::vector<StreamPart> split_;
  std::vector<float*> filled_;
  FloatBuffer states_;
  FloatBuffer carried_;
  FloatBuffer extra_steps_;
  FloatBuffer rows_;
  FloatBuffer scores_;
  FloatBuffer reconstructions_;
  FloatBuffer contributions_;
};

}  // namespace datasentinel
