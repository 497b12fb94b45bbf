#include "bindings/dlpack.h"

#include <utility>

#include "core/error.h"

namespace py = pybind11;

namespace datasentinel::dlpack {
namespace {

constexpr const char* kCapsule = "dltensor";
constexpr const char* kUsedCapsule = "used_dltensor";

}  // namespace

std::optional<DLDevice> device_of(py::handle object) {
  if (!py::hasattr(object, "__dlpack_device__") || !py::hasattr(object, "__dlpack__")) return std::nullopt;
  try {
    const auto device = object.attr("__dlpack_device__")().cast<std::pair<int, int>>();
    return DLDevice{.device_type = device.first, .device_id = device.second};
  } catch (const py::error_already_set&) {
    return std::nullopt;  // A tensor without memory, say.
  }
}

ImportedTensor::ImportedTensor(py::handle producer, std::optional<std::uint64_t> stream) {
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

bool ImportedTensor::is_float32() const noexcept {
  const DLDataType type = tensor().dtype;
  return type.code == kDLFloat && type.bits == 32 && type.lanes == 1;
}

bool ImportedTensor::is_contiguous() const noexcept {
  if (tensor().strides == nullptr) return true;
  std::int64_t step = 1;
  for (int axis = tensor().ndim - 1; axis >= 0; --axis) {
    const std::int64_t size = tensor().shape[axis];
    if (size == 0) return true;
    if (size > 1 && tensor().strides[axis] != step) return false;
    step *= size;
  }
  return true;
}

std::uint64_t ImportedTensor::address() const noexcept {
  return reinterpret_cast<std::uintptr_t>(tensor().data) + tensor().byte_offset;
}

}  // namespace datasentinel::dlpack
