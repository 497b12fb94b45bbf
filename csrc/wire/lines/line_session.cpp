#include "wire/lines/line_session.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <limits>
#include <span>
#include <system_error>
#include <utility>

#include "serving/stream_request.h"
#include "wire/decimal.h"
#include "wire/wording.h"

namespace datasentinel {
namespace {

constexpr std::size_t kMaxQuotedBytes = 32;
constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();

constexpr bool is_blank(char c) noexcept { return c == ' ' || c == '\t'; }

void drop_blanks(std::string_view& line) noexcept {
  while (!line.empty() && is_blank(line.front())) line.remove_prefix(1);
}

/// Whether a token stands for a value that is missing: nothing between two commas, or "nan" in any case.
bool is_missing(std::string_view token) noexcept {
  float value = 0;
  const char* const end = token.data() + token.size();
  const auto [stop, problem] = std::from_chars(token.data(), end, value);
  return token.empty() || (problem == std::errc() && stop == end && std::isnan(value));
}

std::string describe(std::size_t position, const std::string& problem, std::string_view token) {
  return "value " + std::to_string(position) + " " + problem + ": " + quoted(token, kMaxQuotedBytes);
}

/// Why a token is not a valid number.
std::string problem_of(std::size_t position, std::string_view token) {
  if (token.empty()) return "value " + std::to_string(position) + " is empty";
  const char* at = token.data();
  const char* const end = at + token.size();
  float value = 0;
  if (read_float32<DecimalForm::any>(at, end, value) == Decimal::out_of_range) {
    return describe(position, "is outside float32's range", token);
  }
  at = token.data() + (token[0] == '+' && token.size() > 1 && token[1] != '-' ? 1 : 0);
  const auto [stop, problem] = std::from_chars(at, end, value);
  const bool is_special = problem == std::errc() && stop == end && !std::isfinite(value);
  return describe(position, is_special ? "is not finite" : "is not a number", token);
}

/// Reads the numbers of `line` into `values`; where some may be missing, NaN for those. Returns why the line
/// is not a row of so many, or an empty string.
std::string read_row(std::string_view line, std::span<float> values, bool may_lack) {
  const char* at = line.data();
  const char* const end = at + line.size();
  const auto skip_blanks = [&] {
    while (at != end && is_blank(*at)) ++at;
  };
  const auto at_end_of_token = [&] { return at == end || is_blank(*at) || *at == ','; };
  std::size_t count = 0;
  bool after_comma = false;
  for (skip_blanks(); at != end || after_comma; skip_blanks()) {
    const char* const start = at;
    ++count;
    if (count > values.size()) {
      while (!at_end_of_token()) ++at;
      if (at == start) return problem_of(count, {});
    } else if (read_float32<DecimalForm::any>(at, end, values[count - 1]) != Decimal::good ||
               !at_end_of_token()) {
      at = start;
      while (!at_end_of_token()) ++at;
      const std::string_view token(start, static_cast<std::size_t>(at - start));
      if (!may_lack || !is_missing(token)) return problem_of(count, token);
      values[count - 1] = std::numeric_limits<float>::quiet_NaN();
    }
    skip_blanks();
    after_comma = at != end && *at == ',';
    if (after_comma) ++at;
  }
  if (count == values.size()) return {};
  return "expected " + std::to_string(values.size()) + " values, got " + std::to_string(count);
}

std::string_view line_of(Decision decision) noexcept {
  switch (decision) {
    case Decision::ok: return "OK\n";
    case Decision::anomaly: return "ANOMALY\n";
    case Decision::warming: return "WARMING\n";
  }
  return {};
}

bool is_blank_line(std::string_view line) noexcept {
  for (const char c : line) {
    if (!is_blank(c)) return false;
  }
  return true;
}

}  // namespace

LineSession::LineSession(std::shared_ptr<InferenceService> service, std::shared_ptr<RequestCounts> counts,
                         LineLimits limits)
    : WireSession(std::move(service)),
      counts_(std::move(counts)),
      limits_(limits),
      memory_(inference().memory()) {
  if (counts_ == nullptr) throw Error(ErrorCode::invalid_argument, "a session needs counts");
  if (limits_.max_line_bytes == 0 || limits_.max_batch_rows == 0) {
    throw Error(ErrorCode::invalid_argument, "max_line_bytes and max_batch_rows must be at least 1");
  }
  own_stream_ = '\0' + std::to_string(number());
}

LineSession::~LineSession() {
  const auto model = inference().models().find({}, {});
  if (model == nullptr) return;
  for (StateStore* const states : model->changed_states()) {
    if (states != nullptr) states->forget(own_stream_);
  }
}

void LineSession::feed(std::string_view bytes, std::string& replies) {
  if (closed_ && !waiting_ && due_.empty()) return;
  replies.append(std::exchange(due_, {}));
  if (!closed_) input_.append(bytes);
  if (!waiting_ && !closed_) take_turn(replies);
  charge_input(replies);
}

void LineSession::finish(std::string& replies) {
  if (closed_) return;
  closed_ = true;
  started_ = Turn::Clock::now();
  job_->task.model = inference().models().find({}, {});
  if (input_.size() > limits_.max_line_bytes) {  // It may have come behind the last line of a turn.
    refuse_rest("line longer than " + std::to_string(limits_.max_line_bytes) + " bytes");
  } else {
    take_line(input_.view());
    input_.clear();
  }
  score(replies);
}

void LineSession::take_turn(std::string& replies) {
  constexpr std::size_t kBytesPerLookAtTheClock = 1024;
  const Turn turn(limits_.turn);
  started_ = turn.started();
  job_->task.model = inference().models().find({}, {});
  unfinished_ = false;
  for (std::size_t since_look = 0; !closed_;) {
    const std::string_view rest = input_.view();
    const std::size_t newline = rest.find('\n', searched_);
    if (std::min(newline, rest.size()) > limits_.max_line_bytes) {
      refuse_rest("line longer than " + std::to_string(limits_.max_line_bytes) + " bytes");
      break;
    }
    if (newline == std::string_view::npos) {
      searched_ = rest.size();
      break;
    }
    take_line(rest.substr(0, newline));
    input_.consume(newline + 1);
    searched_ = 0;
    since_look += newline + 1;
    const bool look = since_look >= kBytesPerLookAtTheClock;
    if (look) since_look = 0;
    if (outcomes_.size() >= limits_.max_batch_rows || (look && turn.over())) {
      unfinished_ = input_.view().find('\n') != std::string_view::npos;
      break;
    }
  }
  score(replies);
}

void LineSession::take_line(std::string_view line) {
  if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
  if (is_blank_line(line)) return;
  ScoringTask& task = job_->task;
  if (task.model == nullptr) return refuse("no model is being served");
  std::string_view stream = own_stream_;
  double time_s = kUnknown;
  if (line.front() == '@' && !take_stream(line, stream)) return;
  if (!take_time(line, time_s)) return;
  const StateStore* const states = task.model->states();
  const std::size_t columns = task.model->scorer->input_dim();
  float* const row = task.values.extend(columns);
  std::string reason = read_row(line, {row, columns}, task.model->carries());
  if (reason.empty()) {
    if (const WallClock* const clock = task.model->abilities.clock.get();
        clock != nullptr && !std::isnan(time_s)) {
      row[columns - 1] = clock->second_of_week(time_s);
    }
    ++task.rows;
    outcomes_.push_back(true);
    if (states == nullptr) return;
    if (task.streams.empty() || task.streams.back().stream != stream) {
      task.streams.push_back({.stream = std::string(stream)});
    }
    ++task.streams.back().rows;
    if (task.times_s.empty() && std::isnan(time_s)) return;
    task.times_s.resize(task.rows - 1, kUnknown);
    task.times_s.push_back(time_s);
  } else {
    task.values.drop_last(columns);
    refuse(std::move(reason));
  }
}

bool LineSession::take_stream(std::string_view& line, std::string_view& stream) {
  const auto end = static_cast<std::size_t>(std::ranges::find_if(line, is_blank) - line.begin());
  stream = line.substr(1, end - 1);
  line.remove_prefix(end);
  std::string problem = stream.empty() ? "expected a stream's id after '@'" : problem_of_stream_id(stream);
  if (problem.empty()) return true;
  refuse(std::move(problem));
  return false;
}

bool LineSession::take_time(std::string_view& line, double& time_s) {
  drop_blanks(line);
  if (!line.starts_with("t=")) return true;
  line.remove_prefix(2);
  const std::string_view text = line.substr(0, line.find_first_of(" \t"));
  line.remove_prefix(text.size());
  const char* const end = text.data() + text.size();
  const auto [stop, problem] = std::from_chars(text.data(), end, time_s);
  if (problem == std::errc() && stop == end && is_time(time_s, *job_->task.model)) return true;
  refuse("the timestamp is " + quoted(text, kMaxQuotedBytes) + ", not seconds since 1970");
  return false;
}

/// Charges the budget for what waits to be taken; a line that finds no room before its end has come is
/// refused.
void LineSession::charge_input(std::string& replies) {
  const std::size_t held = input_.held_bytes();
  const std::size_t bytes = held > kOwnBytes ? held : 0;
  if (bytes == memory_.bytes()) return;
  const bool grows = bytes > memory_.bytes();
  if (grows && !waiting_ && !unfinished_ && bytes > memory_.bytes() + inference().memory()->allowance()) {
    refuse_rest("the server's memory for requests is full, try again later");
    answer(replies);
  } else {
    memory_.set(bytes);
  }
}

/// Answers the line whose end is unknown, and ends the session.
void LineSession::refuse_rest(std::string reason) {
  refuse(std::move(reason));
  input_.clear();
  memory_.release();
  closed_ = true;
}

void LineSession::refuse(std::string reason) {
  outcomes_.push_back(false);
  reasons_.push_back(std::move(reason));
}

void LineSession::score(std::string& replies) {
  ScoringTask& task = job_->task;
  task.wanted.scores = true;
  ScoringTask* const tasks[] = {&task};
  if (task.rows != 0 && inference().is_long(tasks)) {
    waiting_ = true;
    job_->connection = number();
    return inference().submit_in_time(std::move(job_));
  }
  if (task.rows != 0) inference().score(tasks);
  answer(replies);
}

void LineSession::on_scored(std::unique_ptr<ScoringJob> job) {
  job_ = std::move(job);
  waiting_ = false;
  answer(due_);
}

void LineSession::answer(std::string& replies) {
  ScoringTask& task = job_->task;
  if (!outcomes_.empty()) {
    std::uint64_t anomalies = 0;
    std::string failure;
    if (task.failure) {
      // Every line of the batch still gets its answer, and the connection lives on.
      failure = task.failure->what();
      for (char& c : failure) c = (c >= ' ' && c <= '~') ? c : ' ';
      failures_ += task.rows;
      last_failure_ = failure;
    }
    std::size_t row = 0;
    auto reason = reasons_.cbegin();
    for (const bool is_row : outcomes_) {
      if (!is_row) {
        replies.append("ERROR: ").append(*reason++).append("\n");
      } else if (task.failure) {
        replies.append("ERROR: ").append(failure).append("\n");
      } else {
        const Decision decision = task.decision(row++);
        anomalies += static_cast<std::uint64_t>(decision == Decision::anomaly);
        replies.append(line_of(decision));
      }
    }
    const std::chrono::duration<double> took = Turn::Clock::now() - started_;
    counts_->add_together({.requests = outcomes_.size(),
                           .rows = task.failure ? 0 : task.rows,
                           .anomalies = anomalies,
                           .errors = reasons_.size() + (task.failure ? task.rows : 0),
                           .latency_s = took.count()});
    if (!reasons_.empty()) {
      counts_->add_errors(static_cast<int>(ErrorCode::invalid_argument), reasons_.size());
    }
    if (task.failure) counts_->add_errors(static_cast<int>(task.failure->code()), task.rows);
  }
  outcomes_.clear();
  reasons_.clear();
  task.recycle();  // An idle connection keeps no model in memory.
}

}  // namespace datasentinel
