#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "serving/batch_scorer.h"

namespace datasentinel {

inline constexpr std::size_t kMaxStreamIdBytes = 256;

/// What a request says about the stream of its rows.
struct StreamRequest {
  std::string id;       ///< Empty: nothing. A number is the same as its digits.
  bool starts = false;  ///< The stream begins anew with the first row.
  bool ends = false;    ///< The stream is forgotten after the last row.
  /// When each row was taken, in seconds since 1970; empty where the request does not say.
  std::vector<double> times_s = {};
};

/// Whether a row of the model may have been taken then, in seconds since 1970.
[[nodiscard]] bool is_time(double time_s, const ServedModel& model) noexcept;

/// Why this is not a valid stream id, or an empty string.
[[nodiscard]] std::string problem_of_stream_id(std::string_view id);

/// Appends the numbers of a text, one or several between commas, `most` at most. Returns what is wrong, or an
/// empty string.
[[nodiscard]] std::string read_times(std::string_view text, std::size_t most, std::vector<double>& times_s);

/// Makes all rows of a task, whose model is known, those of one stream; a model without memory ignores that.
/// Of a model with a season, times that the request gives fill in the last column. Returns what is wrong, or
/// an empty string; `how` says how a client names a stream.
[[nodiscard]] std::string assign_stream(ScoringTask& task, StreamRequest stream, std::string_view how);

}  // namespace datasentinel
