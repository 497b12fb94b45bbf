// Rows that lie on a CUDA device (torch, CuPy, Numba), scored there.
#pragma once

#include <pybind11/pybind11.h>

#include "bindings/bindings.h"

namespace datasentinel {

/// Does `object` lie where the CPU cannot read it?
[[nodiscard]] bool lies_on_device(pybind11::handle object);

/// Scores rows on the device, on the stream on which they are ready where that is known, and waits. `out` is
/// None or float32 memory on the same device, one element a row.
///
/// Throws Error{invalid_argument}: the session does not score there, or `x` is not what it takes.
[[nodiscard]] pybind11::object score_on_device(const LoadedScorer& self, const pybind11::object& x,
                                               const pybind11::object& out);

/// As `score_on_device` on the caller's stream, without waiting: an integer, or an object with
/// `__cuda_stream__`. A value that is not finite is reported by the next call, or by `check_device_rows`.
[[nodiscard]] pybind11::object score_on_stream(const LoadedScorer& self, const pybind11::object& x,
                                               const pybind11::object& out, const pybind11::object& stream);

/// Throws Error{invalid_argument} where rows of `score_on_stream` had a value that is not finite.
void check_device_rows(const LoadedScorer& self);

/// For what takes rows in host memory only. Throws Error{invalid_argument} when `x` lies on a device.
void refuse_device(const pybind11::object& x);

}  // namespace datasentinel
