// Parsing of delimited text.

#include <pybind11/native_enum.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "core/error.h"
#include "tables/csv_parser.h"

namespace py = pybind11;

namespace datasentinel {
namespace {

/// An array over a vector that it keeps alive.
template <typename Value>
py::array_t<Value> as_array(std::vector<Value>&& values, std::vector<py::ssize_t> shape) {
  auto owned = std::make_unique<std::vector<Value>>(std::move(values));
  const Value* const data = owned->data();
  const py::capsule owner(owned.get(), [](void* vector) { delete static_cast<std::vector<Value>*>(vector); });
  owned.release();
  return py::array_t<Value>(std::move(shape), data, owner);
}

/// Bytes of any object with a buffer of them.
std::string_view view_of(const py::buffer_info& buffer) {
  if (buffer.itemsize != 1 || buffer.ndim != 1 || (buffer.size > 1 && buffer.strides[0] != 1)) {
    throw Error(ErrorCode::invalid_argument, "text must be contiguous bytes");
  }
  return {static_cast<const char*>(buffer.ptr), static_cast<std::size_t>(buffer.size)};
}

char as_char(const std::string& text) { return text.empty() ? '\0' : text[0]; }

CsvDialect as_dialect(const std::string& delimiter, const std::string& quote, const std::string& decimal,
                      const std::string& comment, const std::string& escape,
                      const std::string& thousands = {}) {
  return {as_char(delimiter), as_char(quote), as_char(decimal), as_char(comment), thousands, as_char(escape)};
}

/// Good rows [n, numbers], bad records, text columns as (offsets, bytes), all records' lines, number of
/// lines.
template <typename Value>
py::tuple parse(const CsvParser& self, const py::buffer& text) {
  const py::buffer_info buffer = text.request();
  const std::string_view view = view_of(buffer);
  CsvBlock<Value> block;
  {
    const py::gil_scoped_release release;  // Safe: `buffer` holds the bytes.
    block = self.parse<Value>(view);
  }
  py::list bad;
  for (const BadRecord& record : block.bad) {
    bad.append(
        py::make_tuple(record.row, record.line, record.problem, record.column, py::bytes(record.text)));
  }
  py::list texts;
  for (TextColumn& column : block.texts) {
    const auto count = static_cast<py::ssize_t>(column.offsets.size());
    texts.append(py::make_tuple(as_array(std::move(column.offsets), {count}), py::bytes(column.bytes)));
  }
  const auto rows = static_cast<py::ssize_t>(block.rows - block.bad.size());
  const auto columns = static_cast<py::ssize_t>(self.num_numbers());
  const auto records = static_cast<py::ssize_t>(block.rows);
  return py::make_tuple(as_array(std::move(block.values), {rows, columns}), std::move(bad), std::move(texts),
                        as_array(std::move(block.first_lines), {records}), block.lines);
}

/// Each record's end, first line and fields.
std::vector<std::tuple<std::size_t, std::size_t, std::vector<py::bytes>>> split(
    const py::buffer& text, std::size_t limit, const std::string& delimiter, const std::string& quote,
    const std::string& comment, const std::string& escape) {
  const py::buffer_info buffer = text.request();
  std::vector<std::tuple<std::size_t, std::size_t, std::vector<py::bytes>>> records;
  for (const SplitRecord& record :
       CsvParser::split(as_dialect(delimiter, quote, ".", comment, escape), view_of(buffer), limit)) {
    records.emplace_back(record.end, record.line,
                         std::vector<py::bytes>(record.fields.begin(), record.fields.end()));
  }
  return records;
}

}  // namespace

void bind_tables(py::module_& module) {
  py::native_enum<CsvProblem>(module, "CsvProblem", "enum.Enum")
      .value("WRONG_COUNT", CsvProblem::wrong_count)
      .value("EMPTY", CsvProblem::empty)
      .value("NOT_A_NUMBER", CsvProblem::not_a_number)
      .value("NOT_FINITE", CsvProblem::not_finite)
      .value("OUT_OF_RANGE", CsvProblem::out_of_range)
      .value("OPEN_QUOTE", CsvProblem::open_quote)
      .finalize();
  py::class_<CsvParser>(module, "CsvParser")
      .def(py::init([](std::size_t width, std::vector<std::size_t> numbers, std::vector<std::size_t> texts,
                       const std::string& delimiter, const std::string& quote, const std::string& decimal,
                       const std::string& comment, const std::string& escape, const py::bytes& thousands,
                       std::vector<std::string> missing) {
             return CsvParser(as_dialect(delimiter, quote, decimal, comment, escape, thousands), width,
                              std::move(numbers), std::move(texts), std::move(missing));
           }),
           py::kw_only(), py::arg("width"), py::arg("numbers"), py::arg("texts"), py::arg("delimiter"),
           py::arg("quote"), py::arg("decimal"), py::arg("comment"), py::arg("escape") = "",
           py::arg("thousands") = py::bytes(), py::arg("missing") = std::vector<std::string>())
      .def("parse_float32", &parse<float>, py::arg("text"))
      .def("parse_float64", &parse<double>, py::arg("text"))
      .def(
          "whole_records",
          [](const CsvParser& self, const py::buffer& text) {
            const py::buffer_info buffer = text.request();
            const std::string_view view = view_of(buffer);
            const py::gil_scoped_release release;  // Safe: `buffer` holds the bytes.
            return self.whole_records(view);
          },
          py::arg("text"));
  module.def("split_csv", &split, py::arg("text"), py::arg("limit"), py::kw_only(), py::arg("delimiter"),
             py::arg("quote"), py::arg("comment"), py::arg("escape") = "");
}

}  // namespace datasentinel
