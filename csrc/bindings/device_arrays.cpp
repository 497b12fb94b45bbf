#include "bindings/device_arrays.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/dlpack.h"
#include "core/error.h"

namespace py = pybind11;

namespace datasentinel {
namespace {

constexpr const char* kCudaArray = "__cuda_array_interface__";

/// Float32 memory on the device, borrowed from another library.
struct DeviceTensor {
  std::uint64_t address = 0;
  std::vector<std::int64_t> shape;
  bool is_read_only = false;
  dlpack::ImportedTensor owner = {};  ///< Empty for the CUDA Array Interface: the caller's object owns it.
};

[[noreturn]] void refuse(const std::string& what) { throw Error(ErrorCode::invalid_argument, what); }

std::string describe(const dlpack::DLDevice& device) {
  const bool is_cuda = device.device_type == dlpack::kDLCUDA || device.device_type == dlpack::kDLCUDAManaged;
  return (is_cuda ? "CUDA device "
                  : "DLPack device type " + std::to_string(device.device_type) + ", number ") +
         std::to_string(device.device_id);
}

/// Where an object lies; the CUDA Array Interface does not tell the device's number.
std::string place_of(py::handle object) {
  const auto device = dlpack::device_of(object);
  return device ? describe(*device) : "a CUDA device";
}

/// CUDA has two names for the legacy default stream; DLPack knows this one.
constexpr std::uint64_t kLegacyStream = 1;
constexpr std::uint64_t named(std::uint64_t stream) { return stream == 0 ? kLegacyStream : stream; }

/// Where a call works. What is not ready on that stream is waited for, unless the caller says that all is.
struct WorkPlace {
  DeviceScoring& on;
  std::uint64_t stream;
  bool is_callers = false;
};

/// `tensor` is what the object's library tells at once, if it does.
DeviceTensor import_dlpack(py::handle object, const std::string& name, const dlpack::DLDevice& device,
                           std::optional<dlpack::DLTensor> tensor, const WorkPlace& place) {
  if ((device.device_type != dlpack::kDLCUDA && device.device_type != dlpack::kDLCUDAManaged) ||
      device.device_id != place.on.device()) {
    refuse(name + " lies on " + describe(device) + ", and this model runs on CUDA device " +
           std::to_string(place.on.device()));
  }
  DeviceTensor result;
  try {
    const auto current = place.is_callers ? place.stream : dlpack::current_stream_of(object, device);
    const bool is_ready = current && named(*current) == place.stream;
    if (!is_ready || !tensor) {
      result.owner = dlpack::ImportedTensor(object, is_ready ? -1 : static_cast<std::int64_t>(place.stream));
      tensor = result.owner.tensor();
    }
  } catch (const py::error_already_set& error) {
    refuse(name + " cannot be read: " + error.what());
  }
  if (!dlpack::is_float32(*tensor)) refuse(name + " must be float32 on the device; convert it there");
  if (!dlpack::is_contiguous(*tensor)) refuse(name + " must be C-contiguous on the device; copy it there");
  result.address = dlpack::address_of(*tensor);
  result.shape.assign(tensor->shape, tensor->shape + tensor->ndim);
  return result;
}

/// The stream on which an array is ready, where it says so.
std::optional<std::uint64_t> stream_of_array(const py::dict& about) {
  if (!about.contains("stream") || about["stream"].is_none()) return std::nullopt;
  return named(about["stream"].cast<std::uint64_t>());
}

DeviceTensor import_cuda_array(py::handle object, const std::string& name, const WorkPlace& place) {
  const py::dict about = object.attr(kCudaArray);
  if (about["typestr"].cast<std::string>() != "<f4") {
    refuse(name + " must be float32 on the device; convert it there");
  }
  DeviceTensor result;
  result.shape = py::cast<std::vector<std::int64_t>>(about["shape"]);
  if (about.contains("strides") && !about["strides"].is_none()) {
    const auto strides = py::cast<std::vector<std::int64_t>>(about["strides"]);
    auto step = static_cast<std::int64_t>(sizeof(float));
    for (std::size_t axis = result.shape.size(); axis-- > 0; step *= result.shape[axis]) {
      if (result.shape[axis] > 1 && strides.at(axis) != step) {
        refuse(name + " must be C-contiguous on the device; copy it there");
      }
    }
  }
  std::tie(result.address, result.is_read_only) = about["data"].cast<std::pair<std::uint64_t, bool>>();
  const auto stream = stream_of_array(about);
  if (!place.is_callers && stream && *stream != place.stream) {
    const py::gil_scoped_release release;
    place.on.wait_for(*stream);
  }
  return result;
}

DeviceTensor import(py::handle object, const std::string& name, const WorkPlace& place) {
  const auto tensor = dlpack::borrow(object);
  const auto device = tensor ? tensor->device : dlpack::device_of(object);
  if (device && !dlpack::is_on_host(*device)) return import_dlpack(object, name, *device, tensor, place);
  if (!device && py::hasattr(object, kCudaArray)) return import_cuda_array(object, name, place);
  refuse(name + " must lie on the same CUDA device as the rows");
}

/// The stream on which rows are ready, or ours where their library does not say.
std::uint64_t stream_for(py::handle rows, const DeviceScoring& on) {
  if (const auto device = dlpack::device_of(rows)) {
    const bool is_ours = device->device_type == dlpack::kDLCUDA && device->device_id == on.device();
    const auto current = is_ours ? dlpack::current_stream_of(rows, *device) : std::nullopt;
    return current ? named(*current) : on.stream();
  }
  return stream_of_array(rows.attr(kCudaArray)).value_or(on.stream());
}

/// The caller's stream.
std::uint64_t as_stream(const py::object& stream) {
  py::object address = stream;
  if (py::hasattr(stream, "__cuda_stream__")) {
    const auto [version, handle] = stream.attr("__cuda_stream__")().cast<std::pair<int, py::object>>();
    if (version != 0)
      refuse("stream: version " + std::to_string(version) + " of __cuda_stream__ is not known");
    address = handle;
  }
  if (!py::isinstance<py::int_>(address) || address.cast<std::int64_t>() < 0) {
    refuse("stream must be a CUDA stream's address as an integer, or an object with __cuda_stream__");
  }
  return named(address.cast<std::uint64_t>());
}

/// Scores in memory of ours on the device: complete when this is made, or once the work of a stream is done.
class DeviceScores {
 public:
  DeviceScores(std::shared_ptr<const DeviceBlock> memory, std::size_t count, std::shared_ptr<Session> session,
               std::optional<std::uint64_t> stream)
      : memory_(std::move(memory)),
        count_(static_cast<std::int64_t>(count)),
        session_(std::move(session)),
        device_(session_->device_scoring()->device()),
        stream_(stream) {}

  [[nodiscard]] std::int64_t size() const noexcept { return count_; }
  [[nodiscard]] std::pair<int, int> device() const { return {dlpack::kDLCUDA, device_}; }

  [[nodiscard]] py::dict cuda_array() const {
    py::dict about;
    about["shape"] = py::make_tuple(count_);
    about["typestr"] = "<f4";
    about["data"] = py::make_tuple(memory_->address(), false);
    about["strides"] = py::none();
    about["stream"] = stream_;
    about["version"] = 3;
    return about;
  }

  /// A capsule that shares the memory, for use on the stream that `options` tell, as DLPack has it.
  [[nodiscard]] py::capsule dlpack(const py::kwargs& options) const {
    if (stream_) wait_unless_on(options);
    struct Export {
      dlpack::DLManagedTensor managed{};
      std::int64_t size = 0;
      std::shared_ptr<const DeviceBlock> memory;
    };
    auto held = std::make_unique<Export>();
    held->size = count_;
    held->memory = memory_;
    held->managed = {
        .dl_tensor = {.data = reinterpret_cast<void*>(memory_->address()),
                      .device = {dlpack::kDLCUDA, device_},
                      .ndim = 1,
                      .dtype = {dlpack::kDLFloat, 32, 1},
                      .shape = &held->size,
                      .strides = nullptr,
                      .byte_offset = 0},
        .manager_ctx = held.get(),
        .deleter = [](dlpack::DLManagedTensor* self) { delete static_cast<Export*>(self->manager_ctx); }};
    PyObject* capsule = PyCapsule_New(&held->managed, "dltensor", [](PyObject* self) {
      // A capsule that nobody took still owns its tensor.
      if (PyCapsule_IsValid(self, "dltensor") == 0) return;
      auto* managed = static_cast<dlpack::DLManagedTensor*>(PyCapsule_GetPointer(self, "dltensor"));
      managed->deleter(managed);
    });
    if (capsule == nullptr) throw py::error_already_set();
    static_cast<void>(held.release());
    return py::reinterpret_steal<py::capsule>(capsule);
  }

 private:
  void wait_unless_on(const py::kwargs& options) const {
    const bool is_told = options.contains("stream") && !options["stream"].is_none();
    const std::int64_t wanted = is_told ? options["stream"].cast<std::int64_t>() : kLegacyStream;
    if (wanted == -1 || named(static_cast<std::uint64_t>(wanted)) == *stream_) return;
    const py::gil_scoped_release release;
    session_->device_scoring()->wait_for(*stream_);
  }

  std::shared_ptr<const DeviceBlock> memory_;
  std::int64_t count_;
  std::shared_ptr<Session> session_;
  int device_;
  std::optional<std::uint64_t> stream_;
};

/// Scores on `callers_stream` without waiting, or where `x` is ready and waits.
py::object score_rows(const LoadedScorer& self, const py::object& x, const py::object& out,
                      std::optional<std::uint64_t> callers_stream) {
  DeviceScoring* const on = self.session->device_scoring();
  if (on == nullptr) {
    refuse("x lies on " + place_of(x) + ", and backend '" + std::string(self.session->backend()) +
           "' scores rows in host memory; copy x there, or load the model with backend 'fused-cuda'");
  }
  check_device_rows(self);
  const WorkPlace place{.on = *on,
                        .stream = callers_stream ? *callers_stream : stream_for(x, *on),
                        .is_callers = callers_stream.has_value()};
  if ((!callers_stream || out.is_none()) && on->is_captured(place.stream)) {
    refuse(
        "what is captured for a CUDA graph is scored with stream= and out=, which neither wait nor allocate");
  }
  const DeviceTensor rows = import(x, "x", place);
  if (rows.shape.empty() || rows.shape.size() > 2) refuse("x must have shape [N, D] or [D]");
  const std::size_t count = rows.shape.size() == 2 ? static_cast<std::size_t>(rows.shape.front()) : 1;
  if (rows.shape.back() != static_cast<std::int64_t>(self.session->input_dim())) {
    refuse("expected " + std::to_string(self.session->input_dim()) + " values per row, got " +
           std::to_string(rows.shape.back()));
  }
  if (rows.address % DeviceScoring::kAlignment != 0) {
    refuse("x must start at an address that is a multiple of 16 bytes; copy it on the device");
  }

  py::object result = out;
  std::uint64_t scores = 0;
  DeviceTensor target;
  if (out.is_none()) {
    auto memory = on->allocate(std::max<std::size_t>(count, 1) * sizeof(float));
    scores = memory->address();
    result = py::cast(DeviceScores(std::move(memory), count, self.session, callers_stream));
  } else {
    target = import(out, "out", place);
    if (target.shape != std::vector<std::int64_t>{static_cast<std::int64_t>(count)}) {
      refuse("out must have shape (" + std::to_string(count) + ",)");
    }
    if (target.is_read_only) refuse("out is read-only");
    if (target.address % alignof(float) != 0) refuse("out must start at an address that is a multiple of 4");
    scores = target.address;
  }
  if (count == 0) return result;
  std::optional<Cell> bad;
  {
    const py::gil_scoped_release release;
    if (callers_stream) {
      on->launch(rows.address, count, scores, place.stream);
    } else {
      bad = on->score(rows.address, count, scores, place.stream);
    }
  }
  if (bad) self.scorer->refuse(*bad);
  return result;
}

}  // namespace

bool lies_on_device(py::handle object) {
  if (const auto device = dlpack::device_of(object)) return !dlpack::is_on_host(*device);
  return py::hasattr(object, kCudaArray);
}

void refuse_device(const py::object& x) {
  if (lies_on_device(x)) {
    refuse("x lies on " + place_of(x) + ", and only scores are computed there; copy it to the host");
  }
}

py::object score_on_device(const LoadedScorer& self, const py::object& x, const py::object& out) {
  return score_rows(self, x, out, std::nullopt);
}

py::object score_on_stream(const LoadedScorer& self, const py::object& x, const py::object& out,
                           const py::object& stream) {
  if (!lies_on_device(x)) refuse("stream= is for rows on a CUDA device, and x lies in host memory");
  return score_rows(self, x, out, as_stream(stream));
}

void check_device_rows(const LoadedScorer& self) {
  DeviceScoring* const on = self.session->device_scoring();
  if (on == nullptr) return;
  if (const auto bad = on->take_bad_value()) {
    self.scorer->refuse(*bad, " of rows that were scored before on a stream of the caller's");
  }
}

void bind_device_arrays(py::module_& module) {
  py::class_<DeviceScores>(module, "DeviceScores")
      .def("__len__", &DeviceScores::size)
      .def_property_readonly("shape", [](const DeviceScores& self) { return py::make_tuple(self.size()); })
      .def("__dlpack_device__", &DeviceScores::device)
      .def("__dlpack__",
           [](const DeviceScores& self, const py::kwargs& options) { return self.dlpack(options); })
      .def_property_readonly("__cuda_array_interface__", &DeviceScores::cuda_array);
}

}  // namespace datasentinel
