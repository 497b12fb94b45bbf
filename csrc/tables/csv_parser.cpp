#include "tables/csv_parser.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <iterator>
#include <limits>
#include <system_error>

namespace datasentinel {
namespace {

constexpr std::size_t kAnyWidth = 0;
constexpr std::size_t kMaxShownBytes = 40;
// A quoted field that is longer than this is one that was never closed.
constexpr std::ptrdiff_t kMaxQuotedBytes = 1 << 17;

const char* find(const char* begin, const char* end, char c) {
  const void* const found = std::memchr(begin, c, static_cast<std::size_t>(end - begin));
  return found == nullptr ? end : static_cast<const char*>(found);
}

/// Behind the end of the line that `begin` is in.
const char* next_line(const char* begin, const char* end) {
  const char* const stop = find(begin, end, '\n');
  return stop == end ? end : stop + 1;
}

bool equals_ignoring_case(std::string_view text, std::string_view lower) {
  return std::equal(text.begin(), text.end(), lower.begin(), lower.end(),
                    [](char a, char b) { return (a >= 'A' && a <= 'Z' ? a - 'A' + 'a' : a) == b; });
}

/// Makes room for as many rows as lines of this length would be.
template <typename Value>
void reserve(CsvBlock<Value>& block, std::size_t line_bytes, std::size_t text_bytes, std::size_t columns) {
  block.values.reserve((text_bytes / line_bytes + text_bytes / line_bytes / 8 + 1) * columns);
}

/// Appends groups of digits, such as 1,234 or 1,23,456, without the mark between them. False where digits are
/// not grouped so.
bool append_groups(std::string_view digits, std::string_view mark, std::string& plain) {
  for (bool is_first = true;; is_first = false) {
    const std::size_t at = digits.find(mark);
    const std::string_view group = digits.substr(0, at);
    const bool is_last = at == std::string_view::npos;
    const std::size_t least = is_first ? 1 : is_last ? 3 : 2;
    const bool is_digits =
        std::all_of(group.begin(), group.end(), [](char c) { return c >= '0' && c <= '9'; });
    if (group.size() < least || group.size() > 3 || !is_digits || (is_first && group[0] == '0')) return false;
    plain += group;
    if (is_last) return true;
    digits.remove_prefix(at + mark.size());
  }
}

/// Whether a number that no double can hold is too near to zero rather than too great.
bool is_tiny(std::string_view token) {
  const std::size_t exponent = token.find_first_of("eE");
  if (exponent != std::string_view::npos) return token.substr(exponent + 1).starts_with('-');
  return token.find('.') < 300;
}

}  // namespace

CsvParser::CsvParser(const CsvDialect& dialect, std::size_t width, std::vector<std::size_t> numbers,
                     std::vector<std::size_t> texts, std::vector<std::string> missing)
    : dialect_(dialect),
      width_(width),
      numbers_(std::move(numbers)),
      texts_(std::move(texts)),
      missing_(std::move(missing)),
      roles_(width, {Role::skipped, 0}),
      is_plain_(dialect.delimiter != ' ' && dialect.decimal == '.') {
  for (std::size_t i = 0; i < texts_.size(); ++i) roles_.at(texts_[i]) = {Role::text, i};
  for (std::size_t i = 0; i < numbers_.size(); ++i) {
    is_plain_ = is_plain_ && roles_.at(numbers_[i]).first == Role::skipped;
    roles_[numbers_[i]] = {Role::number, i};
  }
}

/// Blank lines and comments.
bool CsvParser::is_no_row(const char* begin, const char* end) const {
  if (dialect_.comment != 0 && *begin == dialect_.comment) return true;
  return std::all_of(begin, end, [this](char c) { return is_blank(c) || c == '\r' || c == '\n'; });
}

/// Whether an odd number of escapes is before a character of a field.
bool CsvParser::is_escaped(const char* begin, const char* at) const {
  const char* first = at;
  while (dialect_.escape != 0 && first != begin && first[-1] == dialect_.escape) --first;
  return (at - first) % 2 != 0;
}

/// Reads a field that begins with a quotation mark at `at` and leaves `at` behind it. False if it has no end
/// that a field may have.
bool CsvParser::scan_quoted(const char*& at, const char* end, Record& record) const {
  const char* const begin = at + 1;
  const char* const limit = end - begin > kMaxQuotedBytes ? begin + kMaxQuotedBytes : end;
  for (at = begin;; ++at) {
    at = find(at, limit, dialect_.quote);
    if (at == limit) {
      record.cut_off = limit == end;
      return false;
    }
    if (is_escaped(begin, at)) continue;
    if (at + 1 == end || at[1] != dialect_.quote) break;
    ++at;
  }
  record.fields.push_back({begin, at, true});
  record.lines += static_cast<std::size_t>(std::count(begin, at, '\n'));
  ++at;
  while (at != end && is_blank(*at) && dialect_.delimiter != ' ') ++at;
  if (at == end || *at == '\n' || *at == dialect_.delimiter) return true;
  if (*at == '\r') return at + 1 == end || at[1] == '\n';
  return dialect_.delimiter == ' ' && *at == '\t';
}

/// Whether each line of a record of several is a record of its own, were it not for the quotation marks.
bool CsvParser::spans_records(const char* begin, const Record& record) const {
  for (const char* at = begin; at != record.end;) {
    const char* const stop = next_line(at, record.end);
    const auto delimiters = static_cast<std::size_t>(std::count(at, stop, dialect_.delimiter));
    if (delimiters + 1 != record.fields.size()) return false;
    at = stop;
  }
  return true;
}

void CsvParser::scan(const char* begin, const char* end, Record& record) const {
  const bool by_blanks = dialect_.delimiter == ' ';
  record.fields.clear();
  record.lines = 1;
  record.stray_quote = record.cut_off = false;
  const char* at = begin;
  const auto skip_blanks = [&] {
    while (at != end && is_blank(*at)) ++at;
  };
  for (;;) {
    skip_blanks();
    if (by_blanks && (at == end || *at == '\n' || *at == '\r')) break;
    if (dialect_.quote != 0 && at != end && *at == dialect_.quote) {
      if (!scan_quoted(at, end, record)) {
        record.stray_quote = true;
        break;
      }
    } else {
      const char* const start = at;
      while (at != end && *at != dialect_.delimiter && *at != '\n' && !(by_blanks && *at == '\t')) ++at;
      const char* stop = at;
      while (stop != start && (is_blank(stop[-1]) || (stop[-1] == '\r' && (at == end || *at == '\n'))))
        --stop;
      record.fields.push_back({start, stop, false});
    }
    if (at != end && *at == '\r') ++at;
    if (at == end || *at == '\n') break;
    ++at;
  }
  record.end = at == end ? end : next_line(at, end);
  record.cut_off = record.cut_off || at == end;
  if (record.lines > 1 && !record.stray_quote) {
    const auto spans_lines = [](const Field& field) {
      return find(field.begin, field.end, '\n') != field.end;
    };
    const bool in_number = std::any_of(numbers_.begin(), numbers_.end(), [&](std::size_t column) {
      return column < record.fields.size() && spans_lines(record.fields[column]);
    });
    const bool fits = width_ == kAnyWidth || record.fields.size() == width_;
    record.stray_quote = in_number || !fits || spans_records(begin, record);
    if (record.stray_quote) {
      record.fields.erase(std::find_if(record.fields.begin(), record.fields.end(), spans_lines),
                          record.fields.end());
    }
  }
  if (record.stray_quote) {
    record.end = next_line(begin, end);
    record.lines = 1;
  }
}

std::size_t CsvParser::whole_records(std::string_view text) const {
  const char* const begin = text.data();
  const char* const end = begin + text.size();
  const std::size_t last = text.rfind('\n');
  if (last == std::string_view::npos) return 0;
  if (dialect_.quote == 0 || find(begin, end, dialect_.quote) == end) return last + 1;
  Record record;
  for (const char* at = begin; at != end;) {
    const char* const stop = find(at, end, '\n');
    if (stop == end) return static_cast<std::size_t>(at - begin);
    if (find(at, stop, dialect_.quote) == stop || is_no_row(at, stop)) {
      at = stop + 1;
      continue;
    }
    scan(at, end, record);
    if (record.cut_off) return static_cast<std::size_t>(at - begin);
    at = record.end;
  }
  return text.size();
}

/// Writes a number with a decimal point and without marks between thousands; false where it is none.
bool CsvParser::write_plainly(std::string_view token, std::string& plain) const {
  if (!dialect_.thousands.empty() && token.find(dialect_.thousands) != std::string_view::npos) {
    if (token[0] == '+' || token[0] == '-') {
      plain += token[0];
      token.remove_prefix(1);
    }
    const std::size_t stop = std::min(token.find(dialect_.decimal), token.size());
    if (!append_groups(token.substr(0, stop), dialect_.thousands, plain)) return false;
    token.remove_prefix(stop);
  }
  if (dialect_.decimal != '.' && token.find('.') != std::string_view::npos) return false;
  const std::size_t start = plain.size();
  plain += token;
  std::replace(plain.begin() + static_cast<std::ptrdiff_t>(start), plain.end(), dialect_.decimal, '.');
  return true;
}

/// Reads a number as the line protocol does. False with the problem if there is none.
bool CsvParser::parse_number(const Field& field, double& value, CsvProblem& problem) const {
  const char* begin = field.begin;
  const char* stop = field.end;
  while (begin != stop && is_blank(*begin)) ++begin;
  while (stop != begin && is_blank(stop[-1])) --stop;
  std::string_view token(begin, static_cast<std::size_t>(stop - begin));
  const auto is_token = [&token](const std::string& word) { return equals_ignoring_case(token, word); };
  if (std::ranges::any_of(missing_, is_token)) {
    value = std::numeric_limits<double>::quiet_NaN();
    return true;
  }
  problem = token.empty() ? CsvProblem::empty : CsvProblem::not_a_number;
  if (token.empty()) return false;
  std::string plain;
  if (dialect_.decimal != '.' || !dialect_.thousands.empty()) {
    if (!write_plainly(token, plain)) return false;
    token = plain;
  }
  // from_chars takes a minus but no plus.
  if (token.size() > 1 && token[0] == '+' && token[1] != '-') token.remove_prefix(1);
  const char* const end = token.data() + token.size();
  const auto [at, error] = std::from_chars(token.data(), end, value);
  if (at != end || error == std::errc::invalid_argument) {
    const bool is_true = equals_ignoring_case(token, "true");
    value = is_true ? 1 : 0;
    return is_true || equals_ignoring_case(token, "false");
  }
  if (error == std::errc::result_out_of_range) {
    problem = CsvProblem::out_of_range;
    value = 0;
    return is_tiny(token);
  }
  problem = std::isfinite(value) ? CsvProblem::out_of_range : CsvProblem::not_finite;
  return std::isfinite(static_cast<float>(value));
}

void CsvParser::append_text(const Field& field, std::string& bytes) const {
  if (!field.quoted) {
    bytes.append(field.begin, field.end);
    return;
  }
  for (const char* at = field.begin; at != field.end; ++at) {
    const bool is_last = at + 1 == field.end;
    const bool escapes = dialect_.escape != 0 && *at == dialect_.escape && !is_last &&
                         (at[1] == dialect_.quote || at[1] == dialect_.escape);
    const bool doubles = *at == dialect_.quote && !is_last;
    bytes.push_back(escapes ? at[1] : *at);
    if (escapes || doubles) ++at;
  }
}

template <typename Value>
void CsvParser::parse_record(const Record& record, std::size_t line, CsvBlock<Value>& block) const {
  for (std::size_t i = 0; i < texts_.size(); ++i) {
    const bool is_there = !record.stray_quote && texts_[i] < record.fields.size();
    if (is_there) append_text(record.fields[texts_[i]], block.texts[i].bytes);
    block.texts[i].end_field();
  }
  BadRecord bad{.row = block.rows, .line = line, .text = {}};
  if (record.stray_quote) {
    bad.problem = CsvProblem::open_quote;
    bad.column = record.fields.size();
  } else if (record.fields.size() != width_) {
    bad.column = record.fields.size();
  } else {
    const std::size_t first = block.values.size();
    for (const std::size_t column : numbers_) {
      const Field& field = record.fields[column];
      double value = 0;
      if (!parse_number(field, value, bad.problem)) {
        block.values.resize(first);
        bad.column = column;
        const auto length = static_cast<std::size_t>(field.end - field.begin);
        bad.text.assign(field.begin, std::min(length, kMaxShownBytes));
        block.bad.push_back(std::move(bad));
        return;
      }
      block.values.push_back(static_cast<Value>(value));
    }
    return;
  }
  block.bad.push_back(std::move(bad));
}

/// Reads a line without quotation marks, whose numbers are all good, in one pass. Returns what is behind it,
/// or null for any other line; `block` is untouched then but for its texts.
template <typename Value>
const char* CsvParser::parse_plain_line(const char* at, const char* end, Value* values,
                                        CsvBlock<Value>& block) const {
  for (std::size_t column = 0;; ++column) {
    const auto [role, place] = roles_[column];
    while (at != end && is_blank(*at)) ++at;
    if (role == Role::number) {
      double value = 0;
      const auto [stop, error] = std::from_chars(at, end, value);
      const auto rounded = static_cast<float>(value);
      if (error != std::errc() || !std::isfinite(rounded)) return nullptr;
      values[place] = static_cast<Value>(value);
      at = stop;
      while (at != end && is_blank(*at)) ++at;
    } else {
      const char* const start = at;
      while (at != end && *at != dialect_.delimiter && *at != '\n') ++at;
      if (start != at && *start == dialect_.quote) return nullptr;
      if (role == Role::text) {
        const char* stop = at;
        while (stop != start && (is_blank(stop[-1]) || (stop[-1] == '\r' && (at == end || *at == '\n')))) {
          --stop;
        }
        block.texts[place].bytes.append(start, stop);
        block.texts[place].end_field();
      }
    }
    if (column + 1 == width_) break;
    if (at == end || *at != dialect_.delimiter) return nullptr;
    ++at;
  }
  if (at != end && *at == '\r') ++at;
  if (at == end) return end;
  return *at == '\n' ? at + 1 : nullptr;
}

std::vector<SplitRecord> CsvParser::split(const CsvDialect& dialect, std::string_view text,
                                          std::size_t limit) {
  const CsvParser parser(dialect, kAnyWidth, {}, {});
  std::vector<SplitRecord> records;
  Record record;
  std::size_t line = 0;
  const char* const end = text.data() + text.size();
  for (const char* at = text.data(); at != end && records.size() < limit; ++line) {
    if (const char* const stop = next_line(at, end); parser.is_no_row(at, stop)) {
      at = stop;
      continue;
    }
    parser.scan(at, end, record);
    SplitRecord& found = records.emplace_back();
    found.end = static_cast<std::size_t>(record.end - text.data());
    found.line = line;
    for (const Field& field : record.fields) parser.append_text(field, found.fields.emplace_back());
    line += record.lines - 1;
    at = record.end;
  }
  return records;
}

template <typename Value>
CsvBlock<Value> CsvParser::parse(std::string_view text) const {
  CsvBlock<Value> block;
  block.texts.resize(texts_.size());
  std::vector<Value> values(numbers_.size());
  Record record;
  const char* const end = text.data() + text.size();
  for (const char* at = text.data(); at != end;) {
    if (const char* const stop = next_line(at, end); is_no_row(at, stop)) {
      ++block.lines;
      at = stop;
      continue;
    }
    if (is_plain_) {
      if (const char* const stop = parse_plain_line(at, end, values.data(), block); stop != nullptr) {
        if (block.rows == 0) reserve(block, static_cast<std::size_t>(stop - at), text.size(), values.size());
        block.values.insert(block.values.end(), values.begin(), values.end());
        block.first_lines.push_back(static_cast<std::int64_t>(block.lines++));
        ++block.rows;
        at = stop;
        continue;
      }
      for (TextColumn& column : block.texts) {
        column.offsets.resize(block.rows + 1);
        column.bytes.resize(static_cast<std::size_t>(column.offsets.back()));
      }
    }
    scan(at, end, record);
    parse_record(record, block.lines, block);
    block.first_lines.push_back(static_cast<std::int64_t>(block.lines));
    ++block.rows;
    block.lines += record.lines;
    at = record.end;
  }
  return block;
}

template CsvBlock<float> CsvParser::parse<float>(std::string_view text) const;
template CsvBlock<double> CsvParser::parse<double>(std::string_view text) const;

}  // namespace datasentinel
