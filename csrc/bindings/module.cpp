// The Python face of the C++ core. Thin: it checks array layouts, releases the GIL around work, and turns
// error codes into the classes of datasentinel.errors.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "backends/all.h"
#include "core/cpu_features.h"
#include "core/error.h"
#include "core/plan.h"
#include "core/registry.h"
#include "core/scorer.h"
#include "onnx/graph.h"
#include "wire/line_session.h"

namespace py = pybind11;

namespace datasentinel {
namespace {

// ------------------------------------------------------------------------------------------------ errors

const char* class_name(ErrorCode code) {
  switch (code) {
    case ErrorCode::invalid_argument: return "InvalidInputError";
    case ErrorCode::invalid_model: return "ArtifactError";
    case ErrorCode::unsupported_model: return "UnsupportedModelError";
    case ErrorCode::not_found: return "ModelNotFoundError";
    case ErrorCode::unavailable: return "BackendUnavailableError";
    case ErrorCode::out_of_memory: return "OutOfMemoryError";
    case ErrorCode::resource_exhausted: return "ResourceExhaustedError";
    case ErrorCode::backend_failure: return "BackendError";
  }
  return "DataSentinelError";
}

void raise_in_python(const Error& error) {
  const py::object type = py::module_::import("datasentinel.errors").attr(class_name(error.code()));
  const py::object instance = type(error.what());
  instance.attr("vendor_text") = error.vendor_text();
  PyErr_SetObject(type.ptr(), instance.ptr());
}

// ------------------------------------------------------------------------------------------------ arrays

/// A float32, C-contiguous array of rank 1 (one row) or 2 as rows, or nothing for any other object. Borrowed.
std::optional<ConstRows> as_rows(py::handle object) {
  if (!py::isinstance<py::array_t<float>>(object)) return std::nullopt;
  const auto array = py::reinterpret_borrow<py::array>(object);
  if ((array.flags() & py::array::c_style) == 0) return std::nullopt;
  const float* data = static_cast<const float*>(array.data());
  if (array.ndim() == 2) {
    return ConstRows{.data = data,
                     .rows = static_cast<std::size_t>(array.shape(0)),
                     .columns = static_cast<std::size_t>(array.shape(1))};
  }
  if (array.ndim() == 1) {
    return ConstRows{.data = data, .rows = 1, .columns = static_cast<std::size_t>(array.shape(0))};
  }
  return std::nullopt;
}

/// The caller's `out`, checked, or a new array of `shape`.
py::array_t<float> output_array(const py::object& out, const std::vector<py::ssize_t>& shape) {
  if (out.is_none()) return py::array_t<float>(shape);
  bool fits = py::isinstance<py::array_t<float>>(out);
  if (fits) {
    const auto array = py::reinterpret_borrow<py::array>(out);
    fits = array.writeable() && (array.flags() & py::array::c_style) != 0 &&
           std::vector<py::ssize_t>(array.shape(), array.shape() + array.ndim()) == shape;
  }
  if (!fits) {
    std::string wanted;
    for (const auto size : shape) wanted += std::to_string(size) + ", ";
    throw Error(ErrorCode::invalid_argument,
                "out must be a writeable, C-contiguous float32 array of shape (" + wanted + ")");
  }
  return py::reinterpret_borrow<py::array_t<float>>(out);
}

Model as_model(const std::string& name, std::string_view onnx) {
  return {.name = name, .onnx = std::as_bytes(std::span(onnx.data(), onnx.size()))};
}

// ------------------------------------------------------------------------------------------------ scoring

/// A scorer as Python sees it, with the plan's refusals beside it.
struct LoadedScorer {
  std::shared_ptr<Scorer> scorer;
  std::vector<Refusal> refusals;
};

std::unique_ptr<LoadedScorer> load(Registry& registry, std::string_view onnx, const std::string& name,
                                   const std::string& backend, double threshold,
                                   std::vector<std::string> feature_names, int num_threads,
                                   const std::string& precision) {
  const py::gil_scoped_release release;
  const SessionOptions options{.num_threads = num_threads, .precision = precision};
  LoadedModel loaded;
  if (backend == "auto") {
    loaded = load_auto(registry, as_model(name, onnx), options);
  } else {
    loaded.session = registry.find(backend).load(as_model(name, onnx), options);
  }
  return std::make_unique<LoadedScorer>(LoadedScorer{
      .scorer = std::make_shared<Scorer>(std::move(loaded.session), threshold, std::move(feature_names)),
      .refusals = std::move(loaded.refusals)});
}

/// NotImplemented asks the caller to convert `x` to contiguous float32 and to call again.
py::object score(const LoadedScorer& self, const py::object& x, const py::object& out) {
  const auto rows = as_rows(x);
  if (!rows) return py::reinterpret_borrow<py::object>(Py_NotImplemented);
  auto scores = output_array(out, {static_cast<py::ssize_t>(rows->rows)});
  const Outputs outputs{.scores = scores.mutable_data(), .reconstructions = nullptr};
  {
    // Safe: `x` and `scores` are kept alive by references held here, and nothing below touches Python.
    const py::gil_scoped_release release;
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
    const py::gil_scoped_release release;  // Safe for the same reason as in score().
    std::vector<float> scores(rows->rows);
    self.scorer->run(*rows, {.scores = scores.data(), .reconstructions = nullptr});
    for (std::size_t i = 0; i < rows->rows; ++i) decision[i] = self.scorer->is_anomaly(scores[i]);
  }
  return std::move(decisions);
}

py::object reconstruct(const LoadedScorer& self, const py::object& x, const py::object& out) {
  const auto rows = as_rows(x);
  if (!rows) return py::reinterpret_borrow<py::object>(Py_NotImplemented);
  const auto array = py::reinterpret_borrow<py::array>(x);
  auto result = output_array(out, {array.shape(), array.shape() + array.ndim()});
  const Outputs outputs{.scores = nullptr, .reconstructions = result.mutable_data()};
  {
    const py::gil_scoped_release release;  // Safe for the same reason as in score().
    self.scorer->run(*rows, outputs);
  }
  return std::move(result);
}

py::dict counts(const LoadedScorer& self) {
  const Scorer::Counts counts = self.scorer->counts();
  py::dict result;
  result["rows"] = counts.rows;
  result["anomalies"] = counts.anomalies;
  result["batches"] = counts.batches;
  return result;
}

py::dict facts(const LoadedScorer& self) {
  py::dict result;
  for (const auto& [key, value] : self.scorer->session().facts()) result[py::str(key)] = value;
  return result;
}

// ----------------------------------------------------------------------------------------------- backends

/// A status with the name of the backend it belongs to.
struct NamedStatus {
  std::string name;
  BackendStatus status;
};

std::unique_ptr<Registry> registry_with(
    const std::map<std::string, std::pair<std::string, std::string>>& hints) {
  LibraryHints libraries;
  for (const auto& [backend, hint] : hints) libraries[backend] = {.path = hint.first, .problem = hint.second};
  return std::make_unique<Registry>(make_registry(libraries));
}

std::vector<NamedStatus> statuses(const Registry& registry) {
  const py::gil_scoped_release release;  // The first call opens vendor libraries.
  std::vector<NamedStatus> result;
  for (const auto& backend : registry.all()) {
    result.push_back({.name = std::string(backend->name()), .status = backend->status()});
  }
  return result;
}

// ------------------------------------------------------------------------------------------------- models

onnx::Graph inspect_model(std::string_view onnx, const std::string& name) {
  const py::gil_scoped_release release;
  return onnx::read_graph(as_model(name, onnx));
}

py::tuple shape_of(const onnx::ValueInfo& value) {
  py::tuple shape(value.dims.size());
  for (std::size_t i = 0; i < value.dims.size(); ++i) shape[i] = value.dims[i];
  return shape;
}

// --------------------------------------------------------------------------------------------------- wire

py::bytes feed(LineSession& session, std::string_view data) {
  std::string replies;
  {
    // Safe: `data` views an immutable bytes object that the caller's argument keeps alive.
    const py::gil_scoped_release release;
    session.feed(data, replies);
  }
  return replies;
}

py::bytes finish(LineSession& session) {
  std::string replies;
  {
    const py::gil_scoped_release release;
    session.finish(replies);
  }
  return replies;
}

}  // namespace
}  // namespace datasentinel

PYBIND11_MODULE(_native, module) {
  using namespace datasentinel;

  module.doc() = "The C++ core of datasentinel. Only datasentinel.backend imports it.";
  module.attr("__version__") = DATASENTINEL_VERSION;
  module.def("build_info", [] {
    py::dict info;
    info["version"] = DATASENTINEL_VERSION;
    info["compiler"] = DATASENTINEL_COMPILER;
    info["build type"] = DATASENTINEL_BUILD_TYPE;
    info["pybind11"] =
        PYBIND11_TOSTRING(PYBIND11_VERSION_MAJOR) "." PYBIND11_TOSTRING(PYBIND11_VERSION_MINOR);
    return info;
  });
  module.def("cpu_features", &cpu_features);

  py::register_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const Error& error) {
      raise_in_python(error);
    }
  });

  py::class_<NamedStatus>(module, "BackendStatus")
      .def_readonly("name", &NamedStatus::name)
      .def_property_readonly("availability",
                             [](const NamedStatus& self) { return to_string(self.status.availability); })
      .def_property_readonly("detail", [](const NamedStatus& self) { return self.status.detail; })
      .def_property_readonly("version", [](const NamedStatus& self) { return self.status.version; })
      .def_property_readonly("library", [](const NamedStatus& self) { return self.status.library; });

  py::class_<onnx::ValueInfo>(module, "TensorInfo")
      .def_readonly("name", &onnx::ValueInfo::name)
      .def_property_readonly("dtype", [](const onnx::ValueInfo& self) { return onnx::to_string(self.type); })
      .def_property_readonly("shape", &shape_of);
  py::class_<onnx::Graph>(module, "ModelInfo")
      .def_readonly("opset", &onnx::Graph::opset)
      .def_property_readonly("operators", &onnx::Graph::operators)
      .def_readonly("inputs", &onnx::Graph::inputs)
      .def_readonly("outputs", &onnx::Graph::outputs);
  module.def("inspect_model", &inspect_model, py::arg("onnx"), py::kw_only(), py::arg("name"));

  py::class_<Registry>(module, "Registry")
      .def(py::init(&registry_with), py::arg("libraries"))
      .def("status", &statuses)
      .def("load", &load, py::arg("onnx"), py::kw_only(), py::arg("name"), py::arg("backend"),
           py::arg("threshold"), py::arg("feature_names"), py::arg("num_threads"), py::arg("precision"));

  py::class_<LoadedScorer>(module, "Scorer")
      .def_property_readonly("input_dim", [](const LoadedScorer& self) { return self.scorer->input_dim(); })
      .def_property_readonly("threshold", [](const LoadedScorer& self) { return self.scorer->threshold(); })
      .def_property_readonly("backend",
                             [](const LoadedScorer& self) { return self.scorer->session().backend(); })
      .def_property_readonly("facts", &facts)
      .def_property_readonly("refusals",
                             [](const LoadedScorer& self) {
                               std::vector<std::pair<std::string, std::string>> refusals;
                               for (const auto& refusal : self.refusals) {
                                 refusals.emplace_back(refusal.backend, refusal.reason);
                               }
                               return refusals;
                             })
      .def_property_readonly("counts", &counts)
      .def("score", &score, py::arg("x"), py::arg("out") = py::none())
      .def("predict", &predict, py::arg("x"))
      .def("reconstruct", &reconstruct, py::arg("x"), py::arg("out") = py::none());

  py::class_<LineSession>(module, "LineSession")
      .def(py::init([](const LoadedScorer& scorer, std::size_t max_line_bytes) {
             return std::make_unique<LineSession>(scorer.scorer,
                                                  LineLimits{.max_line_bytes = max_line_bytes});
           }),
           py::arg("scorer"), py::kw_only(), py::arg("max_line_bytes"))
      .def("feed", &feed, py::arg("data"))
      .def("finish", &finish)
      .def_property_readonly("closed", &LineSession::closed)
      .def_property_readonly("lines", &LineSession::lines)
      .def_property_readonly("errors", &LineSession::errors);
}
