// Tensors of other libraries (torch, JAX, CuPy, Arrow), read in place by DLPack.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>

namespace datasentinel::dlpack {

// DLPack's ABI, version 0.8 (the capsule "dltensor"), which every producer still hands to callers that ask
// for no other. A test compares these declarations with an installed dlpack.h.
inline constexpr std::int32_t kDLCPU = 1;
inline constexpr std::int32_t kDLCUDA = 2;
inline constexpr std::int32_t kDLCUDAHost = 3;
inline constexpr std::int32_t kDLROCMHost = 11;
inline constexpr std::int32_t kDLCUDAManaged = 13;
inline constexpr std::uint8_t kDLFloat = 2;

struct DLDevice {
  std::int32_t device_type;
  std::int32_t device_id;
};

struct DLDataType {
  std::uint8_t code;
  std::uint8_t bits;
  std::uint16_t lanes;
};

struct DLTensor {
  void* data;
  DLDevice device;
  std::int32_t ndim;
  DLDataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;
  std::uint64_t byte_offset;
};

struct DLManagedTensor {
  DLTensor dl_tensor;
  void* manager_ctx;
  void (*deleter)(DLManagedTensor* self);
};

// DLPack's C exchange API, version 1: what a type offers as `__dlpack_c_exchange_api__`, for callers that
// work on the library's own stream and need no synchronisation.

struct DLPackVersion {
  std::uint32_t major;
  std::uint32_t minor;
};

struct DLPackExchangeAPIHeader {
  DLPackVersion version;
  DLPackExchangeAPIHeader* prev_api;
};

struct DLPackExchangeAPI {
  DLPackExchangeAPIHeader header;
  void* managed_tensor_allocator;
  void* managed_tensor_from_py_object_no_sync;
  void* managed_tensor_to_py_object_no_sync;
  int (*dltensor_from_py_object_no_sync)(void* py_object, DLTensor* out);
  int (*current_work_stream)(std::int32_t device_type, std::int32_t device_id, void** out_current_stream);
};

/// The tensor of an object whose type has the exchange API, as long as the object is kept and not changed;
/// nothing where it cannot be had that way. What is under way on the library's stream is not waited for.
[[nodiscard]] std::optional<DLTensor> borrow(pybind11::handle object);

/// The stream that the object's library works on, where its type has the exchange API.
[[nodiscard]] std::optional<std::uint64_t> current_stream_of(pybind11::handle object, DLDevice device);

[[nodiscard]] bool is_float32(const DLTensor& tensor) noexcept;
/// Row-major without gaps.
[[nodiscard]] bool is_contiguous(const DLTensor& tensor) noexcept;
[[nodiscard]] std::uint64_t address_of(const DLTensor& tensor) noexcept;

/// Where an object says that it lies; nothing where DLPack cannot say.
[[nodiscard]] std::optional<DLDevice> device_of(pybind11::handle object);

/// Memory that the CPU can read.
[[nodiscard]] constexpr bool is_on_host(DLDevice device) noexcept {
  return device.device_type == kDLCPU || device.device_type == kDLCUDAHost ||
         device.device_type == kDLROCMHost;
}

/// Owns a tensor that another library lent, until destroyed with the GIL held.
class ImportedTensor {
 public:
  ImportedTensor() = default;
  /// Asks `producer` for its tensor, made ready on `stream` where that is given (-1: it is ready). Throws
  /// what the producer does.
  explicit ImportedTensor(pybind11::handle producer, std::optional<std::int64_t> stream = std::nullopt);
  ImportedTensor(ImportedTensor&& other) noexcept;
  ImportedTensor& operator=(ImportedTensor&& other) noexcept;
  ImportedTensor(const ImportedTensor&) = delete;
  ImportedTensor& operator=(const ImportedTensor&) = delete;
  ~ImportedTensor();

  [[nodiscard]] const DLTensor& tensor() const noexcept { return managed_->dl_tensor; }

 private:
  DLManagedTensor* managed_ = nullptr;
};

}  // namespace datasentinel::dlpack
