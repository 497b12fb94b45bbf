// Tensors of other libraries (torch, JAX, CuPy, Arrow), read in place by DLPack.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>

namespace datasentinel::dlpack {

// DLPack's ABI, version 0.8 (the capsule "dltensor"), which every producer still gives to who asks for no
// other. A test compares these declarations with an installed dlpack.h.
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
  /// Asks `producer` for its tensor, made ready on `stream` where that is given. Throws what the producer
  /// does.
  explicit ImportedTensor(pybind11::handle producer, std::optional<std::uint64_t> stream = std::nullopt);
  ImportedTensor(ImportedTensor&& other) noexcept;
  ImportedTensor& operator=(ImportedTensor&& other) noexcept;
  ImportedTensor(const ImportedTensor&) = delete;
  ImportedTensor& operator=(const ImportedTensor&) = delete;
  ~ImportedTensor();

  [[nodiscard]] const DLTensor& tensor() const noexcept { return managed_->dl_tensor; }
  [[nodiscard]] bool is_float32() const noexcept;
  /// Row-major without gaps.
  [[nodiscard]] bool is_contiguous() const noexcept;
  [[nodiscard]] std::uint64_t address() const noexcept;

 private:
  DLManagedTensor* managed_ = nullptr;
};

}  // namespace datasentinel::dlpack
