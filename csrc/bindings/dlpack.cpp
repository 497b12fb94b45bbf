#include "bindings/dlpack.h"

#include <utility>

#include "core/error.h"

namespace py = pybind11;

namespace datasentinel::dlpack {
namespace {

constexpr const char* kCapsule = "dltensor";
constexpr const char* kUsedCapsule = "used_dltensor";
constexpr const char* kExchangeCapsule = "dlpack_exchange_api";
constexpr std::uint32_t kExchangeVersion = 1;

/// What the object's type offers, or null.
const DLPackExchangeAPI* exchange_of(py::handle object) {
  // Interned, the name is found in the type's cache; it lives as long as the process.
  static PyObject* const name = PyUnicode_InternFromString("__dlpack_c_exchange_api__");
  const py::handle type = py::type::handle_of(object);
  if (!py::hasattr(type, name)) return nullptr;
  const py::object capsule = py::getattr(type, name);
  if (PyCapsule_IsValid(capsule.ptr(), kExchangeCapsule) == 0) return nullptr;
  const auto* header =
      static_cast<const DLPackExchangeAPIHeader*>(PyCapsule_GetPointer(capsule.ptr(), kExchangeCapsule));
  while (header != nullptr && header->version.major > kExchangeVersion) header = header->prev_api;
  if (header == nullptr || header->version.major != kExchangeVersion) return nullptr;
  return reinterpret_cast<const DLPackExchangeAPI*>(header);
}

}  // namespace

std::optional<DLTensor> borrow(py::handle object) {
  const DLPackExchangeAPI* const exchange = exchange_of(object);
  if (exchange == nullptr || exchange->dltensor_from_py_object_no_sync == nullptr) return std::nullopt;
  DLTensor tensor{};
  if (exchange->dltensor_from_py_object_no_sync(object.ptr(), &tensor) == 0) return tensor;
  PyErr_Clear();  // A tensor without memory, say. Asked by `__dlpack__`, its library says what is wrong.
  return std::nullopt;
}

std::optional<std::uint64_t> current_stream_of(py::handle object, DLDevice device) {
  const DLPackExchangeAPI* const exchange = exchange_of(object);
  if (exchange == nullptr || exchange->current_work_stream == nullptr) return std::nullopt;
  void* stream = nullptr;
  if (exchange->current_work_stream(device.device_type, device.device_id, &stream) != 0) {
    throw py::error_already_set();
  }
  return reinterpret_cast<std::uintptr_t>(stream);
}

std::optional<DLDevice> device_of(py::handle object) {
  if (const auto tensor = borrow(object)) return tensor->device;
  if (!py::hasattr(object, "__dlpack_device__") || !py::hasattr(object, "__dlpack__")) return std::nullopt;
  try {
    const auto device = object.attr("__dlpack_device__")().cast<std::pair<int, int>>();
    return DLDevice{.device_type = device.first, .device_id = device.second};
  } catch (const py::error_already_set&) {
    return std::nullopt;  // A tensor without memory, say.
  }
}

ImportedTensor::ImportedTensor(py::handle producer, std::optional<std::int64_t> stream) {
  const py::object capsule =
      stream ? producer.attr("__dlpack__")(py::arg("stream") = *stream) : producer.attr("__dlpack__")();
  if (PyCapsule_IsValid(capsule.ptr(), kCapsule) == 0) {
    throw Error(ErrorCode::invalid_argument, "x: __dlpack__() gave no unused capsule 'dltensor'");
  }
  managed_ = static_cast<DLManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), kCapsule));
  PyCapsule_SetName(capsule.ptr(), kUsedCapsule);  // From now on it is ours to delete.
}

ImportedTensor::ImportedTensor(ImportedTensor&& other) noexcept
    : managed_(std::exchange(other.managed_, nullptr)) {}

ImportedTensor& ImportedTensor::operator=(ImportedTensor&& other) noexcept {
  std::swap(managed_, other.managed_);
  return *this;
}

ImportedTensor::~ImportedTensor() {
  if (managed_ != nullptr && managed_->deleter != nullptr) managed_->deleter(managed_);
}

bool is_float32(const DLTensor& tensor) noexcept {
  const DLDataType type = tensor.dtype;
  return type.code == kDLFloat && type.bits == 32 && type.lanes == 1;
}

bool is_contiguous(const DLTensor& tensor) noexcept {
  if (tensor.strides == nullptr) return true;
  std::int64_t step = 1;
  for (int axis = tensor.ndim - 1; axis >= 0; --axis) {
    const std::int64_t size = tensor.shape[axis];
    if (size == 0) return true;
    if (size > 1 && tensor.strides[axis] != step) return false;
    step *= size;
  }
  return true;
}

std::uint64_t address_of(const DLTensor& tensor) noexcept {
  return reinterpret_cast<std::uintptr_t>(tensor.data) + tensor.byte_offset;
}

}  // namespace datasentinel::dlpack
