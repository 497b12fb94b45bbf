// The states of streams, and scoring in them.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "core/error.h"
#include "serving/state_store.h"
#include "serving/stream_scorer.h"
#include "serving/wall_clock.h"

namespace py = pybind11;

namespace datasentinel {
namespace {

using FloatArray = py::array_t<float, py::array::c_style>;
using DoubleArray = py::array_t<double, py::array::c_style>;

StreamRules make_rules(std::size_t warm_up_rows, double gap_s, double row_s, std::vector<float> first_values,
                       std::size_t stale_rows) {
  return {.warm_up_rows = warm_up_rows,
          .gap_s = gap_s,
          .row_s = row_s,
          .carry = {.first = std::move(first_values), .stale_rows = stale_rows}};
}

/// For the streams of a model with these rules, and of others that carry as many values.
std::shared_ptr<StateStore> make_store(std::size_t state_size, const StreamRules& rules,
                                       std::size_t max_streams, std::size_t max_bytes) {
  return std::make_shared<StateStore>(state_size, rules.carry.size(),
                                      StateLimits{.max_streams = max_streams, .max_bytes = max_bytes});
}

/// Rows that follow each other in the same stream are a part.
std::vector<StreamPart> parts_of(const std::vector<std::string>& streams, ConstRows rows, Outputs outputs,
                                 std::uint8_t* warming, const double* times_s, float* to_fill) {
  std::vector<StreamPart> parts;
  for (std::size_t i = 0; i < rows.rows; ++i) {
    if (parts.empty() || parts.back().stream != streams[i]) {
      parts.push_back({.stream = streams[i],
                       .rows = rows.row(i),
                       .outputs = outputs.from_row(i, rows.columns),
                       .warming = warming + i,
                       .times_s = times_s == nullptr ? nullptr : times_s + i,
                       .to_fill = to_fill == nullptr ? nullptr : to_fill + i * rows.columns});
    }
    ++parts.back().count;
  }
  return parts;
}

/// Room for one number a value of these rows, or null where none is given.
float* room_in(const std::optional<FloatArray>& array, const FloatArray& x) {
  if (!array) return nullptr;
  if (array->ndim() != 2 || array->shape(0) != x.shape(0) || array->shape(1) != x.shape(1)) {
    throw Error(ErrorCode::invalid_argument, "an output must be a float32 array of the shape of x");
  }
  return FloatArray(*array).mutable_data();
}

/// A number for each of so many rows, or null where none are given.
const double* data_of(const std::optional<DoubleArray>& times_s, std::size_t rows) {
  if (!times_s) return nullptr;
  if (times_s->ndim() != 1 || static_cast<std::size_t>(times_s->size()) != rows) {
    throw Error(
        ErrorCode::invalid_argument,
        std::to_string(rows) + " rows or streams need as many times, got " + std::to_string(times_s->size()));
  }
  return times_s->data();
}

/// The scores of the rows, [N], each of the stream of this id, and whether they are warming; fills in what
/// else there is room for, and the rows where they lack values that the rules carry.
py::tuple score(StateStore& self, const LoadedScorer& scorer, const StreamRules& rules, const FloatArray& x,
                const std::vector<std::string>& streams, const std::optional<DoubleArray>& times_s,
                const std::optional<FloatArray>& reconstructions,
                const std::optional<FloatArray>& contributions, const StateStore* leader) {
  if (x.ndim() != 2 || static_cast<std::size_t>(x.shape(0)) != streams.size()) {
    throw Error(ErrorCode::invalid_argument, "x must be a C-contiguous float32 array [N, D], with N streams");
  }
  if (scorer.scorer->state_dim() != self.state_size()) {
    throw Error(ErrorCode::invalid_argument, "the states are of " + std::to_string(self.state_size()) +
                                                 " values, the model's of " +
                                                 std::to_string(scorer.scorer->state_dim()));
  }
  self.require_fit(rules, scorer.scorer->input_dim());
  const ConstRows rows{
      .data = x.data(), .rows = streams.size(), .columns = static_cast<std::size_t>(x.shape(1))};
  py::array_t<float> scores(x.shape(0));
  py::array_t<bool> warming(x.shape(0));
  const Outputs outputs{.scores = scores.mutable_data(),
                        .reconstructions = room_in(reconstructions, x),
                        .contributions = room_in(contributions, x)};
  auto* const warm = reinterpret_cast<std::uint8_t*>(warming.mutable_data());
  const double* const times = data_of(times_s, rows.rows);
  float* const to_fill = rules.carry.carries() ? FloatArray(x).mutable_data() : nullptr;
  {
    const py::gil_scoped_release release;  // The arrays are kept alive by references held here.
    StreamScorer::check(*scorer.scorer, rules.carry, rows);
    StreamScorer().score(*scorer.scorer, rules, self, parts_of(streams, rows, outputs, warm, times, to_fill),
                         leader);
  }
  return py::make_tuple(std::move(scores), std::move(warming));
}

/// The next place, or None at the end; streams, their last use, their records [N, R], and the times of their
/// last rows.
py::tuple copy(const StateStore& self, std::size_t place, std::size_t count) {
  StatePage page;
  bool more = false;
  {
    const py::gil_scoped_release release;
    more = self.copy(place, count, page);
  }
  py::list streams;
  for (const std::string& stream : page.streams) streams.append(py::bytes(stream));
  const auto rows = static_cast<py::ssize_t>(page.streams.size());
  py::array_t<float> records({rows, static_cast<py::ssize_t>(self.record_size())}, page.records.data());
  py::array_t<std::uint64_t> last_used(rows, page.last_used.data());
  DoubleArray times_s(rows, page.times_s.data());
  return py::make_tuple(more ? py::object(py::int_(place)) : py::none(), std::move(streams),
                        std::move(last_used), std::move(records), std::move(times_s));
}

std::size_t insert(StateStore& self, const std::vector<std::string>& streams, const StreamRules& rules,
                   const FloatArray& records, const std::optional<DoubleArray>& times_s) {
  if (records.ndim() != 2 || static_cast<std::size_t>(records.shape(0)) != streams.size() ||
      static_cast<std::size_t>(records.shape(1)) != self.record_size()) {
    throw Error(ErrorCode::invalid_argument,
                "records must have shape [N, " + std::to_string(self.record_size()) + "], with N streams");
  }
  const float* const first = records.data();
  const double* const times = data_of(times_s, streams.size());
  const py::gil_scoped_release release;
  return self.insert(streams, rules, first, times);
}

}  // namespace

void bind_streams(py::module_& module) {
  py::class_<WallClock, std::shared_ptr<WallClock>>(module, "WallClock")
      .def(py::init<std::vector<double>, std::vector<double>>(), py::arg("starts_s"), py::arg("offsets_s"))
      .def("second_of_week", &WallClock::second_of_week, py::arg("time_s"));
  py::class_<StreamRules>(module, "StreamRules")
      .def(py::init(&make_rules), py::kw_only(), py::arg("warm_up_rows") = 0,
           py::arg("gap_s") = std::numeric_limits<double>::infinity(), py::arg("row_s") = 0.0,
           py::arg("first_values") = std::vector<float>(), py::arg("stale_rows") = 0);
  py::class_<StateStore, std::shared_ptr<StateStore>>(module, "StateStore")
      .def(py::init(&make_store), py::arg("state_size"), py::arg("rules"), py::kw_only(),
           py::arg("max_streams"), py::arg("max_bytes") = std::numeric_limits<std::size_t>::max())
      .def("score", &score, py::arg("scorer"), py::arg("rules"), py::arg("x"), py::arg("streams"),
           py::arg("times_s") = py::none(), py::kw_only(),
           py::arg("reconstructions").noconvert() = py::none(),
           py::arg("contributions").noconvert() = py::none(), py::arg("leader") = py::none())
      .def("forget", &StateStore::forget, py::arg("stream"))
      .def("copy", &copy, py::arg("place"), py::arg("count"))
      .def("insert", &insert, py::arg("streams"), py::arg("rules"), py::arg("records"),
           py::arg("times_s") = py::none())
      .def("__contains__", &StateStore::contains)
      .def("__len__", &StateStore::size)
      .def(
          "stale_columns",
          [](const StateStore& self, std::string_view stream, const StreamRules& rules) {
            return self.stale_columns(stream, rules.carry);
          },
          py::arg("stream"), py::arg("rules"))
      .def_property_readonly("state_size", &StateStore::state_size)
      .def_property_readonly("record_size", &StateStore::record_size)
      .def_property_readonly("bytes", &StateStore::bytes)
      .def_property_readonly("warming", &StateStore::warming)
      .def_property_readonly("stale", &StateStore::stale)
      .def_property_readonly("stale_rows", &StateStore::stale_rows)
      .def_property_readonly("evicted", &StateStore::evicted);
}

}  // namespace datasentinel
