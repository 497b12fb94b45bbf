// The Python face of the C++ core. Thin: it checks array layouts, releases the GIL around work, and turns
// error codes into the classes of datasentinel.errors.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <exception>
#include <string>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "core/cpu_features.h"
#include "core/error.h"
#include "wire/grpc/grpc_status.h"
#include "wire/http/http_status.h"

namespace py = pybind11;

namespace datasentinel {
namespace {

const char* class_name(ErrorCode code) {
  switch (code) {
    case ErrorCode::invalid_argument: return "InvalidInputError";
    case ErrorCode::invalid_model: return "ArtifactError";
    case ErrorCode::unsupported_model: return "UnsupportedModelError";
    case ErrorCode::not_found: return "ModelNotFoundError";
    case ErrorCode::not_allowed: return "NotAllowedError";
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

/// For each code: Python's class, the name in metrics, gRPC's code, HTTP's status.
py::list error_table() {
  py::list table;
  for (const ErrorCode code : kErrorCodes) {
    table.append(py::make_tuple(class_name(code), error_name(code), static_cast<int>(grpc_code(code)),
                                http_status(code)));
  }
  return table;
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
  module.def("error_table", &error_table);

  py::register_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(std::move(pointer));
    } catch (const Error& error) {
      raise_in_python(error);
    }
  });

  bind_models(module);
  bind_backends(module);
  bind_scoring(module);
  bind_streams(module);
  bind_device_arrays(module);
  bind_pinned(module);
  bind_roof(module);
  bind_tables(module);
  bind_wire(module);
}
