#include "wire/line_session.h"

#include <charconv>
#include <cmath>
#include <system_error>
#include <utility>

#include "core/error.h"

namespace datasentinel {
namespace {

constexpr std::size_t kMaxQuotedBytes = 32;

constexpr bool is_blank(char c) noexcept { return c == ' ' || c == '\t'; }

/// A token as a message may show it: printable ASCII, not too long.
std::string quoted(std::string_view token) {
  std::string text = "'";
  for (const char c : token.substr(0, kMaxQuotedBytes)) text += (c >= ' ' && c <= '~') ? c : '?';
  if (token.size() > kMaxQuotedBytes) text += "...";
  return text + "'";
}

std::string describe(std::size_t position, const std::string& problem, std::string_view token) {
  return "value " + std::to_string(position) + " " + problem + ": " + quoted(token);
}

/// Parses one decimal number. Returns the problem, or an empty view.
std::string_view parse_number(std::string_view token, float& value) noexcept {
  constexpr std::string_view not_a_number = "is not a number";
  constexpr std::string_view out_of_range = "is outside float32's range";
  // from_chars takes a minus but no plus.
  if (token.size() > 1 && token[0] == '+' && token[1] != '-') token.remove_prefix(1);
  const char* end = token.data() + token.size();
  const auto [stop, problem] = std::from_chars(token.data(), end, value);
  if (problem == std::errc::result_out_of_range) {
    // Too small is not a problem: its nearest float32 is zero or subnormal. from_chars does not tell which
    // side it was, a double does.
    double wide = 0;
    const auto [wide_stop, wide_problem] = std::from_chars(token.data(), end, wide);
    if (wide_problem != std::errc() || wide_stop != end) return out_of_range;
    value = static_cast<float>(wide);
    return std::isfinite(value) ? std::string_view() : out_of_range;
  }
  if (problem != std::errc() || stop != end) return not_a_number;
  if (!std::isfinite(value)) return "is not finite";
  return {};
}

/// Appends the numbers of `line` to `values`. Returns why the line is no row of `expected` values, or an
/// empty string; `values` then holds exactly `expected` more.
std::string parse_row(std::string_view line, std::size_t expected, std::vector<float>& values) {
  const char* at = line.data();
  const char* const end = at + line.size();
  const auto skip_blanks = [&] {
    while (at != end && is_blank(*at)) ++at;
  };
  std::size_t count = 0;
  bool after_comma = false;
  for (skip_blanks(); at != end || after_comma; skip_blanks()) {
    const char* const start = at;
    while (at != end && !is_blank(*at) && *at != ',') ++at;
    const std::string_view token(start, static_cast<std::size_t>(at - start));
    ++count;
    if (token.empty()) return "value " + std::to_string(count) + " is empty";
    if (count <= expected) {
      float value = 0;
      if (const auto problem = parse_number(token, value); !problem.empty()) {
        return describe(count, std::string(problem), token);
      }
      values.push_back(value);
    }
    skip_blanks();
    after_comma = at != end && *at == ',';
    if (after_comma) ++at;
  }
  if (count == expected) return {};
  return "expected " + std::to_string(expected) + " values, got " + std::to_string(count);
}

bool is_blank_line(std::string_view line) noexcept {
  for (const char c : line) {
    if (!is_blank(c)) return false;
  }
  return true;
}

}  // namespace

LineSession::LineSession(std::shared_ptr<const ModelTable> models, LineLimits limits)
    : models_(std::move(models)), limits_(limits) {
  if (limits_.max_line_bytes == 0 || limits_.max_batch_rows == 0) {
    throw Error(ErrorCode::invalid_argument, "max_line_bytes and max_batch_rows must be at least 1");
  }
}

void LineSession::feed(std::string_view bytes, std::string& replies) {
  begin();
  while (!closed_ && !bytes.empty()) {
    const std::size_t newline = bytes.find('\n');
    const bool complete = newline != std::string_view::npos;
    const std::string_view piece = bytes.substr(0, newline);
    if (partial_.size() + piece.size() > limits_.max_line_bytes) {
      refuse_over_long_line();
      break;
    }
    if (!complete) {
      partial_.append(piece);
      break;
    }
    if (partial_.empty()) {
      take_line(piece, replies);
    } else {
      partial_.append(piece);
      take_line(partial_, replies);
      partial_.clear();
    }
    bytes.remove_prefix(newline + 1);
  }
  end(replies);
}

void LineSession::finish(std::string& replies) {
  if (closed_) return;
  begin();
  if (!partial_.empty()) take_line(partial_, replies);
  partial_.clear();
  end(replies);
  closed_ = true;
}

void LineSession::begin() { model_ = models_->find({}, {}); }

void LineSession::end(std::string& replies) {
  score_pending(replies);
  model_ = nullptr;  // An idle connection keeps no model in memory.
}

void LineSession::take_line(std::string_view line, std::string& replies) {
  if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
  if (is_blank_line(line)) return;
  ++lines_;
  if (model_ == nullptr) return refuse("no model is being served");
  const std::size_t before = rows_.size();
  std::string reason = parse_row(line, model_->scorer->input_dim(), rows_);
  if (reason.empty()) {
    outcomes_.push_back(true);
  } else {
    rows_.resize(before);
    refuse(std::move(reason));
  }
  if (outcomes_.size() >= limits_.max_batch_rows) score_pending(replies);
}

void LineSession::refuse_over_long_line() {
  ++lines_;
  refuse("line longer than " + std::to_string(limits_.max_line_bytes) + " bytes");
  partial_.clear();
  partial_.shrink_to_fit();
  closed_ = true;
}

void LineSession::refuse(std::string reason) {
  ++errors_;
  outcomes_.push_back(false);
  reasons_.push_back(std::move(reason));
}

std::string LineSession::score_rows() {
  if (rows_.empty()) return {};
  Scorer& scorer = *model_->scorer;
  const std::size_t columns = scorer.input_dim();
  const std::size_t count = rows_.size() / columns;
  scores_.resize(count);
  try {
    scorer.run({.data = rows_.data(), .rows = count, .columns = columns}, {.scores = scores_.data()});
    return {};
  } catch (const Error& error) {
    // Every line of the batch still gets its answer, and the connection lives on.
    errors_ += count;
    failures_ += count;
    last_failure_ = error.what();
    for (char& c : last_failure_) c = (c >= ' ' && c <= '~') ? c : ' ';
    return last_failure_;
  }
}

void LineSession::score_pending(std::string& replies) {
  if (outcomes_.empty()) return;
  const std::string failure = score_rows();
  auto score = scores_.cbegin();
  auto reason = reasons_.cbegin();
  for (const bool is_row : outcomes_) {
    if (!is_row) {
      replies.append("ERROR: ").append(*reason++).append("\n");
    } else if (!failure.empty()) {
      replies.append("ERROR: ").append(failure).append("\n");
    } else {
      replies.append(model_->scorer->is_anomaly(*score++) ? "ANOMALY\n" : "OK\n");
    }
  }
  outcomes_.clear();
  rows_.clear();
  reasons_.clear();
}

}  // namespace datasentinel
