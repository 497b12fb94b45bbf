#include "serving/stream_request.h"

#include <algorithm>
#include <utility>

#include "core/utf8.h"

namespace datasentinel {

std::string problem_of_stream_id(std::string_view id) {
  if (id.size() > kMaxStreamIdBytes) {
    return "a stream's id has at most " + std::to_string(kMaxStreamIdBytes) + " bytes, got " +
           std::to_string(id.size());
  }
  const bool has_control = std::ranges::any_of(id, [](char c) { return (c >= 0 && c < ' ') || c == '\x7F'; });
  if (has_control || !is_utf8(id)) return "a stream's id is UTF-8 text without control characters";
  return {};
}

std::string assign_stream(ScoringTask& task, StreamRequest stream, std::string_view how) {
  if (task.model->states() == nullptr) return {};
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
