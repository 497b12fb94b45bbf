// Delimited text: which numbers come out, which records are bad and why, however the text is cut into blocks.

#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "tables/csv_parser.h"

namespace datasentinel {
namespace {

using Numbers = std::vector<double>;

/// Three columns of which the first and the last are numbers and the middle one is text.
CsvParser parser(const CsvDialect& dialect = {}) { return {dialect, 3, {2, 0}, {1}}; }

void reads_numbers_in_the_order_wanted() {
  const auto block = parser().parse<double>("1,a,2\n\n 3 ,\"b,\"\"c\"\"\",+4e0\r\n-5,,TRUE");
  CHECK((block.values == Numbers{2, 1, 4, 3, 1, -5}));
  CHECK(block.texts[0].bytes == "ab,\"c\"");
  CHECK((block.texts[0].offsets == std::vector<std::int64_t>{0, 1, 6, 6}));
  CHECK((block.first_lines == std::vector<std::int64_t>{0, 2, 3}));
  CHECK(block.rows == 3 && block.lines == 4 && block.bad.empty());
}

void float_values_are_the_nearest_double_s() {
  const std::string text = "0.1,x,16777217.0000000001\n";
  const auto wide = parser().parse<double>(text);
  const auto narrow = parser().parse<float>(text);
  for (std::size_t i = 0; i < 2; ++i) CHECK(narrow.values[i] == static_cast<float>(wide.values[i]));
}

void tells_what_is_wrong() {
  const auto block = parser().parse<float>(
      "1,a\n1,a,\nx,a,1\n1,a,inf\n1e39,a,1\n1,\"a,2\n1_0,a,2\n1e-400,a,1e400\n1,a,1e-400\n");
  const std::vector<std::pair<CsvProblem, std::size_t>> expected = {
      {CsvProblem::wrong_count, 2},  {CsvProblem::empty, 2},        {CsvProblem::not_a_number, 0},
      {CsvProblem::not_finite, 2},   {CsvProblem::out_of_range, 0}, {CsvProblem::open_quote, 1},
      {CsvProblem::not_a_number, 0}, {CsvProblem::out_of_range, 2},
  };
  CHECK(block.bad.size() == expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    CHECK(block.bad[i].problem == expected[i].first);
    CHECK(block.bad[i].column == expected[i].second);
    CHECK(block.bad[i].row == i && block.bad[i].line == i);
  }
  CHECK((block.values == std::vector<float>{0, 1}));
  CHECK(block.texts[0].offsets.size() == block.rows + 1);
}

void other_dialects() {
  const auto blanks = parser({.delimiter = ' '}).parse<double>("  1 a\t2  \n3 \"b c\" 4\n");
  CHECK((blanks.values == Numbers{2, 1, 4, 3}));
  const auto commas = parser({.delimiter = ';', .decimal = ','}).parse<double>("1,5;a;-,5\n1.5;a;2\n");
  CHECK((commas.values == Numbers{-0.5, 1.5}));
  CHECK(commas.bad.size() == 1);
  const auto thousands =
      parser({.thousands = ","})
          .parse<double>("\"1,234\",a,\"-12,34,567.5\"\n\"1,23\",a,1\n\"0,123\",a,1\n\"1,234.5,6\",a,1\n");
  CHECK((thousands.values == Numbers{-1234567.5, 1234}));
  CHECK(thousands.bad.size() == 3);
  const auto wide = parser({.delimiter = ';', .decimal = ',', .thousands = "\u00a0"})
                        .parse<double>("+1\u00a0234,5;a;2\n1\u00a0234\u00a0;a;1\n,5\u00a0123;a;1\n");
  CHECK((wide.values == Numbers{2, 1234.5}));
  CHECK(wide.bad.size() == 2);
  const std::string escaped = "1,\"a\\\",\\\\\",2\n3,\"\\\"\n\\\"\",4\n5,\"\"\"\\b\",6\n";
  const auto escapes = parser({.escape = '\\'}).parse<double>(escaped);
  CHECK((escapes.values == Numbers{2, 1, 4, 3, 6, 5}));
  CHECK(escapes.texts[0].bytes == "a\",\\\"\n\"\"\\b");
  CHECK(parser({.escape = '\\'}).whole_records(escaped) == escaped.size());
  CHECK(!parser().parse<double>(escaped).bad.empty());
  const auto comments = parser({.comment = '#'}).parse<double>("#1,a,2\n1,#a,2\n");
  CHECK((comments.values == Numbers{2, 1}));
  CHECK(comments.first_lines[0] == 1);
}

void a_stray_quote_costs_its_line() {
  // Closed by another one further down, it would make one record of many.
  const auto block = parser().parse<double>("1,\"a,2\n3,b,4\n5,c\",6\n\"7,d,8\n9,e,10\n");
  CHECK((block.values == Numbers{4, 3, 6, 5, 10, 9}));
  CHECK(block.bad.size() == 2 && block.bad[1].line == 3 && block.bad[1].column == 0);
  const auto lines = parser().parse<double>("1,\"two\nlines\",2\n3,b,x\n");
  CHECK((lines.values == Numbers{2, 1}));
  CHECK(lines.bad.size() == 1 && lines.bad[0].line == 2 && lines.bad[0].row == 1);
}

/// Any text, cut into blocks of any size where `whole_records` says so, gives the same rows.
void blocks_do_not_matter() {
  std::mt19937 random(1);
  const std::string pieces[] = {"1", "2.5", "x",  "\"",   "\"\"", ",",       ",",
                                ",", "\n",  "\n", "\r\n", " ",    "\"a\nb\""};
  for (int round = 0; round < 3000; ++round) {
    std::string text;
    for (int i = 0; i < 60; ++i) text += pieces[random() % std::size(pieces)];
    const auto whole = parser().parse<double>(text);
    Numbers values;
    std::size_t rows = 0;
    std::size_t lines = 0;
    std::size_t bad = 0;
    std::string pending;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t size = std::min<std::size_t>(1 + random() % 40, text.size() - at);
      pending += text.substr(at, size);
      at += size;
      const std::size_t end = at == text.size() ? pending.size() : parser().whole_records(pending);
      const auto block = parser().parse<double>(pending.substr(0, end));
      pending.erase(0, end);
      values.insert(values.end(), block.values.begin(), block.values.end());
      rows += block.rows;
      lines += block.lines;
      bad += block.bad.size();
    }
    CHECK(values == whole.values);
    CHECK(rows == whole.rows && lines == whole.lines && bad == whole.bad.size());
  }
}

void splits_records_of_any_width() {
  const auto records = CsvParser::split({}, "a,b\n\n1,\"2\n3\",4\n5\n", 2);
  CHECK(records.size() == 2);
  CHECK((records[0].fields == std::vector<std::string>{"a", "b"}));
  CHECK((records[1].fields == std::vector<std::string>{"1", "2\n3", "4"}));
  CHECK(records[0].end == 4 && records[1].line == 2);
}

}  // namespace
}  // namespace datasentinel

int main() {
  using namespace datasentinel;
  reads_numbers_in_the_order_wanted();
  float_values_are_the_nearest_double_s();
  tells_what_is_wrong();
  other_dialects();
  a_stray_quote_costs_its_line();
  blocks_do_not_matter();
  splits_records_of_any_width();
  return check::result();
}
