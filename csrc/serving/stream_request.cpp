#include "serving/stream_request.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <system_error>
#include <utility>

#include "core/utf8.h"

namespace datasentinel {
namespace {

/// 1990 to 2103, as files are read: anything outside is in another unit, or counts from another beginning.
constexpr double kLeastEpochS = 6.3e8;
constexpr double kMostEpochS = 4.2e9;

std::string problem_of_times(const ScoringTask& task, const std::vector<double>& times_s) {
  if (times_s.size() != task.rows) {
    return std::to_string(task.rows) + " rows need as many timestamps, got " + std::to_string(times_s.size());
  }
  for (std::size_t row = 0; row < task.rows; ++row) {
    if (is_time(times_s[row], *task.model)) continue;
    return "the timestamp of row " + std::to_string(row) + " is " + std::to_string(times_s[row]) +
           ", not seconds since 1970";
  }
  return {};
}

}  // namespace

bool is_time(double time_s, const ServedModel& model) noexcept {
  return std::isfinite(time_s) && time_s <= kMostEpochS &&
         (model.abilities.clock == nullptr || time_s >= kLeastEpochS);
}

std::string read_times(std::string_view text, std::size_t most, std::vector<double>& times_s) {
  const char* const end = text.data() + text.size();
  for (const char* at = text.data();; ++at) {
    while (at != end && *at == ' ') ++at;
    if (times_s.size() >= most) return "at most " + std::to_string(most) + " timestamps a request";
    const auto [stop, problem] = std::from_chars(at, end, times_s.emplace_back());
    if (problem != std::errc() || (stop != end && *stop != ',')) {
      return "a timestamp is a number of seconds since 1970; for several rows, a text of as many with commas "
             "between them";
    }
    if (stop == end) return {};
    at = stop;
  }
}

std::string problem_of_stream_id(std::string_view id) {
  if (id.size() > kMaxStreamIdBytes) {
    return "a stream's id has at most " + std::to_string(kMaxStreamIdBytes) + " bytes, got " +
           std::to_string(id.size());
  }
  const bool has_control = std::ranges::any_of(id, [](unsigned char c) { return c < ' ' || c == 0x7F; });
  if (has_control || !is_utf8(id)) return "a stream's id is UTF-8 text without control characters";
  return {};
}

std::string assign_stream(ScoringTask& task, StreamRequest stream, std::string_view how) {
  if (!stream.times_s.empty()) {
    if (std::string problem = problem_of_times(task, stream.times_s); !problem.empty()) return problem;
    if (const WallClock* const clock = task.model->abilities.clock.get(); clock != nullptr) {
      const std::size_t columns = task.model->scorer->input_dim();
      for (std::size_t row = 0; row < task.rows; ++row) {
        task.values.data()[(row + 1) * columns - 1] = clock->second_of_week(stream.times_s[row]);
      }
    }
  }
  if (task.model->states() == nullptr) return {};
  task.times_s = std::move(stream.times_s);
  if (stream.id.empty()) {
    return "model '" + task.model->name +
           "' has a memory, so that its rows need a stream: " + std::string(how);
  }
  std::string problem = problem_of_stream_id(stream.id);
  if (problem.empty()) {
    task.streams.push_back(
        {.stream = std::move(stream.id), .rows = task.rows, .starts = stream.starts, .ends = stream.ends});
  }
  return problem;
}

}  // namespace datasentinel
