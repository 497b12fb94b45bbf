// Scoring of NumPy arrays.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
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

/// A float32, C-contiguous array of rank 1 (one row) or 2 as rows, or nothing for any other object. Borrowed.
std::optional<ConstRows> as_rows(py::handle object) {
  if (!is_float32_array(object)) return std::nullopt;
  const auto array = py::reinterpret_borrow<py::array>(object);
  const auto rank = array.ndim();
  if (!is_contiguous(array) || rank < 1 || rank > 2) return std::nullopt;
  return ConstRows{.data = static_cast<const float*>(array.data()),
                   .rows = rank == 2 ? static_cast<std::size_t>(array.shape(0)) : 1,
                   .columns = static_cast<std::size_t>(array.shape(rank - 1))};
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

/// NotImplemented asks the caller to convert `x` to contiguous float32 and to call again.
py::object score(const LoadedScorer& self, const py::object& x, const py::object& out) {
  const auto rows = as_rows(x);
  if (!rows) return py::reinterpret_borrow<py::object>(Py_NotImplemented);
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

py::object predict(const LoadedScorer& self, const py::object& x) {
  const auto rows = as_rows(x);
  if (!rows) return py::reinterpret_borrow<py::object>(Py_NotImplemented);
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
  if (!rows) return py::reinterpret_borrow<py::object>(Py_NotImplemented);
  const auto array = py::reinterpret_borrow<py::array>(x);
  auto result = output_array(out, {array.shape(), static_cast<std::size_t>(array.ndim())});
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
  const auto put = [&result](const char* name, const Histogram& histogram) {
    Histogram::Values values = histogram.values();
    result[name] = py::make_tuple(histogram.bounds(), std::move(values.counts), values.sum);
  };
  put("batch_rows", all->batch_rows);
  put("compute_s", all->compute_s);
  return result;
}

py::dict facts(const LoadedScorer& self) {
  py::dict result;
  for (const auto& [key, value] : self.scorer->session().facts()) result[py::str(key)] = value;
  return result;
}

}  // namespace

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
      .def("observe", [](const LoadedScorer& self) { self.scorer->observe(); })
      .def_property_readonly("histograms", &histograms)
      .def("score", &score, py::arg("x"), py::arg("out") = py::none())
      .def("predict", &predict, py::arg("x"))
      .def("reconstruct", &matrix<&Outputs::reconstructions>, py::arg("x"), py::arg("out") = py::none())
      .def("contributions", &matrix<&Outputs::contributions>, py::arg("x"), py::arg("out") = py::none());

  py::class_<PValueTable>(module, "PValueTable")
      .def(py::init<std::vector<float>, std::vector<std::uint64_t>, std::uint64_t>(), py::kw_only(),
           py::arg("scores"), py::arg("greater"), py::arg("rows"))
      .def("p_values", &p_values, py::arg("scores"));
}

}  // namespace datasentinel
