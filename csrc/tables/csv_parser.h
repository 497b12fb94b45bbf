// Rows of numbers out of the bytes of delimited text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace datasentinel {

/// How delimited text is written.
struct CsvDialect {
  char delimiter = ',';  ///< A blank stands for runs of blanks and tabs.
  char quote = '"';      ///< 0 for none. A doubled one inside a quoted field is one of its characters.
  char decimal = '.';
  char comment = 0;            ///< Lines that begin with it are comments; 0 for none.
  std::string thousands = {};  ///< What is between groups of digits, as in 1,234; empty for none.
  char escape = 0;  ///< Makes a quotation mark, or itself, a character of a quoted field; 0 for none.
};

/// Why a record is not a row of numbers.
enum class CsvProblem { wrong_count, empty, not_a_number, not_finite, out_of_range, open_quote };

struct BadRecord {
  std::size_t row = 0;   ///< Position among the block's records, from 0.
  std::size_t line = 0;  ///< Its first line, among the block's lines, from 0.
  CsvProblem problem = CsvProblem::wrong_count;
  std::size_t column = 0;  ///< Of the field at fault, or how many fields there are for `wrong_count`.
  std::string text;        ///< The field, shortened; arbitrary bytes.
};

/// The fields of one column, one after the other; field i lies between offsets i and i + 1.
struct TextColumn {
  std::vector<std::int64_t> offsets{0};
  std::string bytes;

  void end_field() { offsets.push_back(static_cast<std::int64_t>(bytes.size())); }
};

/// A record as text.
struct SplitRecord {
  std::size_t end = 0;   ///< Offset of what is behind it.
  std::size_t line = 0;  ///< Its first line, from 0.
  std::vector<std::string> fields;
};

/// What a block of text holds.
template <typename Value>
struct CsvBlock {
  std::vector<Value> values;  ///< [good rows, number columns]
  std::vector<BadRecord> bad;
  std::vector<TextColumn> texts;          ///< One a text column, of all records, those of bad rows too.
  std::vector<std::int64_t> first_lines;  ///< Of each record, among the block's lines.
  std::size_t rows = 0;                   ///< Number of records.
  std::size_t lines = 0;                  ///< Number of lines read, blank ones and comments too.
};

/// Reads blocks of delimited text. Thread-safe: it holds nothing but how to read.
///
/// A record is a line, or several where a quoted field spans them. Since numbers hold no line ends, a
/// quotation mark that is not closed before the next field or line, that would put a line end into a number,
/// or that would make one record of lines that are whole records each, is a stray one: its line is a bad row,
/// and reading goes on with the next line.
///
/// Numbers are written as the line protocol takes them: an optional sign, digits with or without a decimal
/// point, an optional exponent. In addition "true" and "false" in any case are 1 and 0. Where there are
/// words for missing values, one of them in any case is NaN.
class CsvParser {
 public:
  /// `width` fields make a record; `numbers` and `texts` are the columns wanted, in the order wanted;
  /// `missing` are the words, in lower case, perhaps the empty one, that stand for a missing value.
  CsvParser(const CsvDialect& dialect, std::size_t width, std::vector<std::size_t> numbers,
            std::vector<std::size_t> texts, std::vector<std::string> missing = {});

  [[nodiscard]] std::size_t num_numbers() const noexcept { return numbers_.size(); }

  /// How many bytes at the start of `text` are whole records, whatever follows them.
  [[nodiscard]] std::size_t whole_records(std::string_view text) const;

  /// Parses `text`, which ends where a record does. `Value` is float or double; values are the same numbers
  /// in both, rounded to float from the nearest double.
  template <typename Value>
  [[nodiscard]] CsvBlock<Value> parse(std::string_view text) const;

  /// Splits `text` into at most `limit` records, whatever their width.
  [[nodiscard]] static std::vector<SplitRecord> split(const CsvDialect& dialect, std::string_view text,
                                                      std::size_t limit);

 private:
  enum class Role : unsigned char { skipped, number, text };
  struct Field {
    const char* begin;
    const char* end;
    bool quoted;
  };
  struct Record {
    std::vector<Field> fields;  ///< Those before a stray quotation mark's, where there is one.
    const char* end = nullptr;  ///< Behind the line end.
    std::size_t lines = 1;
    bool stray_quote = false;
    bool cut_off = false;  ///< The text ends before the record does.
  };

  void scan(const char* begin, const char* end, Record& record) const;
  [[nodiscard]] bool is_escaped(const char* begin, const char* at) const;
  bool scan_quoted(const char*& at, const char* end, Record& record) const;
  [[nodiscard]] bool spans_records(const char* begin, const Record& record) const;
  template <typename Value>
  const char* parse_plain_line(const char* at, const char* end, Value* values, CsvBlock<Value>& block) const;
  template <typename Value>
  void parse_record(const Record& record, std::size_t line, CsvBlock<Value>& block) const;
  bool parse_number(const Field& field, double& value, CsvProblem& problem) const;
  [[nodiscard]] bool write_plainly(std::string_view token, std::string& plain) const;
  void append_text(const Field& field, std::string& bytes) const;
  [[nodiscard]] bool is_no_row(const char* begin, const char* end) const;
  [[nodiscard]] bool is_blank(char c) const { return c == ' ' || (c == '\t' && dialect_.delimiter != '\t'); }

  CsvDialect dialect_;
  std::size_t width_;
  std::vector<std::size_t> numbers_;
  std::vector<std::size_t> texts_;
  std::vector<std::string> missing_;
  std::vector<std::pair<Role, std::size_t>> roles_;  ///< Of each column: what it is, and its place there.
  bool is_plain_;  ///< Most lines can be read in one pass, without looking for their fields first.
};

}  // namespace datasentinel
