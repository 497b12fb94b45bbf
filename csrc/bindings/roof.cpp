// What a core can do at most, which `datasentinel bench` compares with.

#include "roof/roof.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "bindings/bindings.h"

namespace py = pybind11;

namespace datasentinel {
namespace {

double measure_gflops(const std::string& isa, double seconds) {
  const py::gil_scoped_release release;
  return roof::measure_gflops(isa, seconds);
}

std::vector<roof::Roof> measure_roof(double seconds) {
  const py::gil_scoped_release release;
  return roof::measure_all(seconds);
}

}  // namespace

void bind_roof(py::module_& module) {
  py::class_<roof::Roof>(module, "Roof")
      .def_readonly("isa", &roof::Roof::isa)
      .def_readonly("gflops", &roof::Roof::gflops)
      .def_readonly("l1_gb_s", &roof::Roof::l1_gb_s)
      .def_readonly("l2_gb_s", &roof::Roof::l2_gb_s)
      .def_readonly("memory_gb_s", &roof::Roof::memory_gb_s);
  module.def("measure_roof", &measure_roof, py::arg("seconds"));
  module.def("measure_gflops", &measure_gflops, py::arg("isa"), py::arg("seconds"));
}

}  // namespace datasentinel
