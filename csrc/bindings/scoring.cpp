// Scoring of arrays: NumPy's, and those of other libraries by DLPack.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/device_arrays.h"
#include "bindings/dlpack.h"
#include "core/error.h"
#include "core/p_value.h"
#include "core/scorer.h"

namespace py = pybind11;

namespace datasentinel {
namespace {

/// Is this a float32 array? NumPy's built-in types are singletons, so comparing pointers settles the common
/// case; only others (a dtype that was unpickled, say) are compared by value.
bool is_float32_array(py::handle object) {
  static const py::handle float32 = py::dtype::of<float>().release();  // Lives as long as the process.
  if (!py::isinstance<py::array>(object)) return false;
  return py::reinterpret_borrow<py::array>(object).dtype().is(float32) ||
         py::isinstance<py::array_t<float>>(object);
}

bool is_contiguous(const py::array& array) { return (array.flags() & py::array::c_style) != 0; }

/// Rows that are read where they lie.
struct Rows : ConstRows {
  std::array<py::ssize_t, 2> dims{};  ///< The shape as the caller has it.
  std::size_t rank = 0;
  dlpack::ImportedTensor lent = {};  ///< What another library lent; empty for NumPy's arrays.

  template <typename Shape>
  static Rows of(const void* data, const Shape* shape, std::size_t rank) {
    Rows rows;
    rows.rank = rank;
    std::copy(shape, shape + rank, rows.dims.begin());
    rows.data = static_cast<const float*>(data);
    rows.rows = rank == 2 ? static_cast<std::size_t>(shape[0]) : 1;
    rows.columns = static_cast<std::size_t>(shape[rank - 1]);
    return rows;
  }
  [[nodiscard]] std::span<const py::ssize_t> shape() const { return {dims.data(), rank}; }
};

/// A tensor of another library as rows, or nothing where it has to be converted.
std::optional<Rows> lent_rows(py::handle object) {
  try {
    const auto device = dlpack::device_of(object);
    if (!device || !dlpack::is_on_host(*device)) return std::nullopt;
    dlpack::ImportedTensor tensor(object);
    const dlpack::DLTensor& about = tensor.tensor();
    if (!dlpack::is_float32(about) || !dlpack::is_contiguous(about) || about.ndim < 1 || about.ndim > 2) {
      return std::nullopt;
    }
    Rows rows = Rows::of(reinterpret_cast<const void*>(dlpack::address_of(about)), about.shape,
                         static_cast<std::size_t>(about.ndim));
    rows.lent = std::move(tensor);
    return rows;
  } catch (const py::error_already_set&) {
    return std::nullopt;  // It does not lend; converting it says why, or works.
  }
}

/// A float32, C-contiguous array of rank 1 (one row) or 2 as rows, or nothing for any other object.
std::optional<Rows> as_rows(py::handle object) {
  // A subclass may mean more than its values, as a masked array does: Python looks at it first.
  const bool is_plain = Py_TYPE(object.ptr()) == py::detail::npy_api::get().PyArray_Type_;
  if (!is_plain || !is_float32_array(object)) {
    return py::isinstance<py::array>(object) ? std::nullopt : lent_rows(object);
  }
  const auto array = py::reinterpret_borrow<py::array>(object);
  const auto rank = array.ndim();
  if (!is_contiguous(array) || rank < 1 || rank > 2) return std::nullopt;
  return Rows::of(array.data(), array.shape(), static_cast<std::size_t>(rank));
}

/// For an `x` that is not rows in place: asks the caller to convert it to contiguous float32 and to call
/// again.
py::object convert_first(const py::object& x) {
  if (!py::isinstance<py::array>(x)) refuse_device(x);
  return py::reinterpret_borrow<py::object>(Py_NotImplemented);
}

/// The caller's `out`, checked, or a new array of `shape`.
py::array_t<float> output_array(const py::object& out, std::span<const py::ssize_t> shape) {
  if (out.is_none()) return py::array_t<float>(std::vector<py::ssize_t>(shape.begin(), shape.end()));
  if (is_float32_array(out)) {
    const auto array = py::reinterpret_borrow<py::array>(out);
    if (array.writeable() && is_contiguous(array) &&
        std::equal(shape.begin(), shape.end(), array.shape(), array.shape() + array.ndim())) {
      return py::reinterpret_borrow<py::array_t<float>>(out);
    }
  }
  std::string wanted;
  for (const auto size : shape) wanted += std::to_string(size) + ", ";
  throw Error(ErrorCode::invalid_argument,
              "out must be a writeable, C-contiguous float32 array of shape (" + wanted + ")");
}

/// Releases the GIL for a call worth it. Handing the GIL over and taking it back costs about as much as
/// scoring a row with a small model, and other threads wait no longer for such a call than for any bytecode.
class GilReleaseForLongWork {
 public:
  explicit GilReleaseForLongWork(double expected_us) {
    if (expected_us > kWorthReleasing) release_.emplace();
  }

 private:
  static constexpr double kWorthReleasing = 5.0;
  std::optional<py::gil_scoped_release> release_;
};

py::object score(const LoadedScorer& self, const py::object& x, const py::object& out) {
  const auto rows = as_rows(x);
  if (!rows && !py::isinstance<py::array>(x) && lies_on_device(x)) return score_on_device(self, x, out);
  if (!rows) return convert_first(x);
  const std::array<py::ssize_t, 1> shape{static_cast<py::ssize_t>(rows->rows)};
  auto scores = output_array(out, shape);
  const Outputs outputs{.scores = scores.mutable_data(), .reconstructions = nullptr};
  {
    // Safe: `x` and `scores` are kept alive by references held here, and nothing below touches Python.
    const GilReleaseForLongWork release(self.expected_us(*rows));
    self.scorer->run(*rows, outputs);
  }
  return std::move(scores);
}

/// States are brought up to date where they lie, so nothing is converted.
float* writable_states(const LoadedScorer& self, const py::object& states, std::size_t count) {
  const std::size_t columns = self.scorer->state_dim();
  if (is_float32_array(states)) {
    auto array = py::reinterpret_borrow<py::array>(states);
    const bool fits = array.ndim() == 2 && static_cast<std::size_t>(array.shape(0)) == count &&
                      static_cast<std::size_t>(array.shape(1)) == columns;
    if (fits && is_contiguous(array) && array.writeable()) return static_cast<float*>(array.mutable_data());
  }
  throw Error(ErrorCode::invalid_argument,
              "states must be a writeable, C-contiguous float32 array of shape (" + std::to_string(count) +
                  ", " + std::to_string(columns) + ")");
}

Outputs outputs_for(const py::object& scores, const py::object& reconstructions,
                    const py::object& contributions, ConstRows rows) {
  const std::array<py::ssize_t, 1> column{static_cast<py::ssize_t>(rows.rows)};
  const std::array<py::ssize_t, 2> matrix{column[0], static_cast<py::ssize_t>(rows.columns)};
  const auto pointer = [](const py::object& out, std::span<const py::ssize_t> shape) {
    return out.is_none() ? nullptr : output_array(out, shape).mutable_data();
  };
  return {.scores = pointer(scores, column),
          .reconstructions = pointer(reconstructions, matrix),
          .contributions = pointer(contributions, matrix)};
}

/// The rows of as many streams, or of one stream one after the other.
template <bool kOneStream>
void advance(const LoadedScorer& self, const py::object& x, const py::object& states,
             const py::object& scores, const py::object& reconstructions, const py::object& contributions) {
  const auto rows = as_rows(x);
  if (!rows) throw Error(ErrorCode::invalid_argument, "x must be a C-contiguous float32 array [N, D]");
  float* state = writable_states(self, states, kOneStream ? 1 : rows->rows);
  const Outputs outputs = outputs_for(scores, reconstructions, contributions, *rows);
  const GilReleaseForLongWork release(self.expected_us(*rows));  // Safe for the same reason as in score().
  if constexpr (kOneStream) {
    self.scorer->scan(*rows, state, outputs);
  } else {
    self.scorer->step(*rows, state, outputs);
  }
}

py::object predict(const LoadedScorer& self, const py::object& x) {
  const auto rows = as_rows(x);
  if (!rows) return convert_first(x);
  py::array_t<bool> decisions(static_cast<py::ssize_t>(rows->rows));
  bool* decision = decisions.mutable_data();
  {
    const GilReleaseForLongWork release(self.expected_us(*rows));  // Safe for the same reason as in score().
    std::vector<float> scores(rows->rows);
    self.scorer->run(*rows, {.scores = scores.data(), .reconstructions = nullptr});
    for (std::size_t i = 0; i < rows->rows; ++i) decision[i] = self.scorer->is_anomaly(scores[i]);
  }
  return std::move(decisions);
}

/// Computes the one output that has the shape of `x`.
template <float* Outputs::* kWanted>
py::object matrix(const LoadedScorer& self, const py::object& x, const py::object& out) {
  const auto rows = as_rows(x);
  if (!rows) return convert_first(x);
  auto result = output_array(out, rows->shape());
  Outputs outputs;
  outputs.*kWanted = result.mutable_data();
  {
    const GilReleaseForLongWork release(self.expected_us(*rows));  // Safe for the same reason as in score().
    self.scorer->run(*rows, outputs);
  }
  return std::move(result);
}

py::array_t<double> p_values(const PValueTable& self,
                             const py::array_t<float, py::array::c_style | py::array::forcecast>& scores) {
  py::array_t<double> result(scores.size());
  std::transform(scores.data(), scores.data() + scores.size(), result.mutable_data(),
                 [&](float score) { return self.p_value(score); });
  return result;
}

py::dict counts(const LoadedScorer& self) {
  const Scorer::Counts counts = self.scorer->counts();
  py::dict result;
  result["rows"] = counts.rows;
  result["anomalies"] = counts.anomalies;
  result["batches"] = counts.batches;
  return result;
}

py::dict histograms(const LoadedScorer& self) {
  py::dict result;
  const ScoringHistograms* all = self.scorer->histograms();
  if (all == nullptr) return result;
  result["batch_rows"] = as_tuple(all->batch_rows);
  result["compute_s"] = as_tuple(all->compute_s);
  return result;
}

py::list recent_rows(const LoadedScorer& self, std::int64_t after_ns) {
  py::list found;
  for (const RecentRows::Row& row : self.scorer->recent_rows(after_ns)) {
    found.append(
        py::make_tuple(row.time_ns, row.score, row.is_anomaly,
                       py::array_t<float>(static_cast<py::ssize_t>(row.values.size()), row.values.data())));
  }
  return found;
}

py::dict facts(const LoadedScorer& self) {
  py::dict result;
  for (const auto& [key, value] : self.scorer->session().facts()) result[py::str(key)] = value;
  return result;
}

}  // namespace

py::tuple as_tuple(const Histogram& histogram) {
  Histogram::Values values = histogram.values();
  return py::make_tuple(histogram.bounds(), std::move(values.counts), values.sum);
}

void bind_scoring(py::module_& module) {
  py::class_<LoadedScorer>(module, "Scorer")
      .def_property_readonly("input_dim", [](const LoadedScorer& self) { return self.scorer->input_dim(); })
      .def_property_readonly("threshold", [](const LoadedScorer& self) { return self.scorer->threshold(); })
      .def_property_readonly("backend",
                             [](const LoadedScorer& self) { return self.scorer->session().backend(); })
      .def_property_readonly("facts", &facts)
      .def_readonly("plan", &LoadedScorer::plan)
      .def_property_readonly("counts", &counts)
      .def_property_readonly("score_counts",
                             [](const LoadedScorer& self) { return self.scorer->score_counts(); })
      .def_property_readonly("feature_counts",
                             [](const LoadedScorer& self) { return self.scorer->feature_counts(); })
      .def(
          "observe",
          [](const LoadedScorer& self, double sample_interval_s) {
            self.scorer->observe(std::chrono::duration_cast<std::chrono::nanoseconds>(
                std::chrono::duration<double>(sample_interval_s)));
          },
          py::kw_only(),
          py::arg("sample_interval_s") = std::chrono::duration<double>(Scorer::kSampleInterval).count())
      .def_property_readonly("histograms", &histograms)
      .def("keep_recent_rows", [](const LoadedScorer& self) { self.scorer->keep_recent_rows(); })
      .def("recent_rows", &recent_rows, py::arg("after_ns"))
      .def_property_readonly("state_dim", [](const LoadedScorer& self) { return self.scorer->state_dim(); })
      .def("step", &advance<false>, py::arg("x"), py::arg("states"), py::arg("scores") = py::none(),
           py::arg("reconstructions") = py::none(), py::arg("contributions") = py::none())
      .def("scan", &advance<true>, py::arg("x"), py::arg("states"), py::arg("scores") = py::none(),
           py::arg("reconstructions") = py::none(), py::arg("contributions") = py::none())
      .def("score", &score, py::arg("x"), py::arg("out") = py::none())
      .def("score_on_stream", &score_on_stream, py::arg("x"), py::arg("out"), py::arg("stream"))
      .def("check_device_rows", &check_device_rows)
      .def("predict", &predict, py::arg("x"))
      .def("reconstruct", &matrix<&Outputs::reconstructions>, py::arg("x"), py::arg("out") = py::none())
      .def("contributions", &matrix<&Outputs::contributions>, py::arg("x"), py::arg("out") = py::none());

  py::class_<PValueTable, std::shared_ptr<PValueTable>>(module, "PValueTable")
      .def(py::init<std::vector<float>, std::vector<std::uint64_t>, std::uint64_t>(), py::kw_only(),
           py::arg("scores"), py::arg("greater"), py::arg("rows"))
      .def("p_values", &p_values, py::arg("scores"));
}

}  // namespace datasentinel
