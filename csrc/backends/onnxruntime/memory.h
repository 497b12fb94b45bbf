#pragma once

#include <cstddef>
#include <memory>

#include "backends/onnxruntime/runtime.h"

namespace datasentinel::onnxruntime {

/// The shape of a float32 tensor: [rows, columns], or [rows] where the rank is 1.
struct Shape {
  std::size_t rows = 0;
  std::size_t columns = 1;
  std::size_t rank = 2;
  [[nodiscard]] std::size_t bytes() const noexcept { return rows * columns * sizeof(float); }
};

/// A float32 tensor over memory that stays the caller's. The C API takes a mutable pointer for inputs too; it
/// does not write to them.
[[nodiscard]] Value make_tensor(const Api& api, const OrtMemoryInfo* where, const float* data, Shape shape);

/// Memory of one kind, from a session's own allocator. Must not outlive the session.
class Place {
 public:
  Place(const Api& api, const OrtSession* session, MemoryInfo info);

  struct Free {
    const Api* api = nullptr;
    OrtAllocator* allocator = nullptr;
    void operator()(float* data) const noexcept;
  };
  using Block = std::unique_ptr<float, Free>;

  [[nodiscard]] Block allocate(std::size_t bytes) const;
  [[nodiscard]] const OrtMemoryInfo* info() const noexcept { return info_.get(); }

 private:
  const Api* api_;
  MemoryInfo info_;
  Allocator allocator_;
};

/// The memory that a provider's kernels work in and the host memory that is copied from and to it: the
/// device's and page-locked memory for CUDA and TensorRT. For the CPU both are ordinary memory, so that all
/// that is built on this runs on any machine.
class Memory {
 public:
  /// Throws Error: this ONNX Runtime (before 1.23, say) does not copy, which is tried.
  Memory(std::shared_ptr<Runtime> runtime, const OrtSession* session, Provider provider);

  [[nodiscard]] const Api& api() const noexcept { return runtime_->api; }
  [[nodiscard]] const Place& device() const noexcept { return device_; }
  [[nodiscard]] const Place& host() const noexcept { return host_; }

  /// Returns when the copy is complete.
  void copy(const OrtValue* from, OrtValue* to) const;

 private:
  void try_copies() const;

  std::shared_ptr<Runtime> runtime_;
  Place device_;
  Place host_;
};

/// A tensor on the device and its double on the host, at addresses that never change.
class StagedTensor {
 public:
  StagedTensor() = default;  ///< None.
  StagedTensor(const Memory& memory, Shape shape);

  [[nodiscard]] bool exists() const noexcept { return memory_ != nullptr; }
  [[nodiscard]] float* host() const noexcept { return host_.get(); }  ///< Zeros at first.
  [[nodiscard]] const OrtValue* device_value() const noexcept { return device_value_.get(); }

  void upload() const { memory_->copy(host_value_.get(), device_value_.get()); }
  void download() const { memory_->copy(device_value_.get(), host_value_.get()); }

 private:
  const Memory* memory_ = nullptr;
  Place::Block host_;
  Place::Block device_;
  Value host_value_;
  Value device_value_;
};

}  // namespace datasentinel::onnxruntime
