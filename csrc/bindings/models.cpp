// What a model is made of, and what the CUDA backend makes of it.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstddef>
#include <string>
#include <string_view>

#include "backends/fused/lowering.h"
#include "backends/fused_cuda/nvrtc.h"
#include "backends/fused_cuda/source.h"
#include "bindings/bindings.h"
#include "core/error.h"
#include "onnx/graph.h"

namespace py = pybind11;

namespace datasentinel {
namespace {

onnx::Graph inspect_model(std::string_view onnx, const std::string& name) {
  const py::gil_scoped_release release;
  return onnx::read_graph(as_model(name, onnx));
}

py::tuple shape_of(const onnx::ValueInfo& value) {
  py::tuple shape(value.dims.size());
  for (std::size_t i = 0; i < value.dims.size(); ++i) shape[i] = value.dims[i];
  return shape;
}

fused_cuda::Source cuda_source(std::string_view onnx, const std::string& name, std::size_t shared_bytes,
                               const std::string& precision, bool wgmma) {
  const py::gil_scoped_release release;
  const auto chosen = fused_cuda::precision_of(precision);
  if (!chosen) throw Error(ErrorCode::invalid_argument, "there is no precision '" + precision + "'");
  const fused::Program program = fused::lower(onnx::read_graph(as_model(name, onnx)));
  if (!wgmma) return fused_cuda::generate(program, shared_bytes, *chosen);
  if (auto source = fused_cuda::generate_wgmma(program, shared_bytes, *chosen)) return *std::move(source);
  throw Error(ErrorCode::unsupported_model, name + ": there are no kernels with wgmma for it");
}

py::bytes compile_cuda(const std::string& source, const std::string& architecture,
                       const std::string& library) {
  Bytes code;
  {
    const py::gil_scoped_release release;
    code = fused_cuda::Nvrtc(library).compile(source, architecture);
  }
  return {reinterpret_cast<const char*>(code.data()), code.size()};
}

py::dict as_dict(const fused_cuda::Kernel& kernel) {
  py::dict result;
  result["name"] = kernel.name;
  result["rows"] = kernel.rows;
  result["threads"] = kernel.threads;
  result["shared_bytes"] = kernel.shared_bytes;
  result["blocks"] = kernel.blocks;
  return result;
}

py::dict as_dict(const fused_cuda::Kernels& kernels) {
  py::dict result;
  result["few"] = as_dict(kernels.few);
  result["bulk"] = as_dict(kernels.bulk);
  if (kernels.spread) result["spread"] = as_dict(*kernels.spread);
  return result;
}

}  // namespace

void bind_models(py::module_& module) {
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

  py::class_<fused_cuda::Source>(module, "CudaSource")
      .def_readonly("text", &fused_cuda::Source::text)
      .def_readonly("in_registers", &fused_cuda::Source::in_registers)
      .def_property_readonly("constants",
                             [](const fused_cuda::Source& self) {
                               return py::array_t<float>(static_cast<py::ssize_t>(self.constants.size()),
                                                         self.constants.data());
                             })
      .def_readonly("layers", &fused_cuda::Source::layers)
      .def_readonly("low_layers", &fused_cuda::Source::low_layers)
      .def_property_readonly("scores_only",
                             [](const fused_cuda::Source& self) { return as_dict(self.scores_only); })
      .def_property_readonly("all", [](const fused_cuda::Source& self) { return as_dict(self.all); });
  module.def("cuda_source", &cuda_source, py::arg("onnx"), py::kw_only(), py::arg("name"),
             py::arg("shared_bytes"), py::arg("precision"), py::arg("wgmma"));
  module.def("compile_cuda", &compile_cuda, py::arg("source"), py::kw_only(), py::arg("architecture"),
             py::arg("library"));
}

}  // namespace datasentinel
