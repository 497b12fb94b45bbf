// What the parts of the extension module share.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "core/backend.h"
#include "core/histogram.h"
#include "core/plan.h"
#include "core/scorer.h"

namespace datasentinel {

/// A scorer as Python sees it, with the plan it follows beside it (empty for a named backend).
struct LoadedScorer {
  std::shared_ptr<Scorer> scorer;
  std::shared_ptr<Session> session;  ///< The one that the scorer uses.
  Plan plan;
  double row_us = 0;  ///< Time of a call with one row, measured at load: an upper bound per row.

  [[nodiscard]] double expected_us(ConstRows rows) const { return row_us * static_cast<double>(rows.rows); }
};

inline Model as_model(const std::string& name, std::string_view onnx, std::string_view sha256 = {}) {
  return {.name = name, .onnx = std::as_bytes(std::span(onnx.data(), onnx.size())), .sha256 = sha256};
}

/// Upper bounds, counts per bound and above the last one, sum.
pybind11::tuple as_tuple(const Histogram& histogram);

void bind_backends(pybind11::module_& module);
void bind_device_arrays(pybind11::module_& module);
void bind_models(pybind11::module_& module);
void bind_pinned(pybind11::module_& module);
void bind_roof(pybind11::module_& module);
void bind_scoring(pybind11::module_& module);
void bind_streams(pybind11::module_& module);
void bind_tables(pybind11::module_& module);
void bind_wire(pybind11::module_& module);

}  // namespace datasentinel
