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

class StagedTensor;

/// The memory that a provider's kernels work in and the host memory that is copied from and to it: the
/// device's and page-locked memory for CUDA and TensorRT. For the CPU both are ordinary memory, so that all
/// that is built on this runs on any machine.
class Memory {
 public:
  /// Throws Error: this ONNX Runtime (before 1.23, say) does not copy to the device, which is tried.
  Memory(std::shared_ptr<Runtime> runtime, const OrtSession* session, Provider provider);

 private:
  friend class StagedTensor;

  /// A tensor in one of the two.
  struct Side {
    Place::Block data;
    Value value;
  };

  [[nodiscard]] Side allocate(const Place& place, Shape shape) const;
  void copy(const Side& from, const Side& to, std::size_t bytes) const;
  void try_copies() const;

  std::shared_ptr<Runtime> runtime_;
  bool ordinary_;  ///< Both are memory of the CPU.
  Place device_;
  Place host_;
};

/// A tensor on the device and its double on the host, at addresses that never change.
class StagedTensor {
 public:
  StagedTensor() = default;  ///< None.
  StagedTensor(const Memory& memory, Shape shape);

  [[nodiscard]] float* host() const noexcept { return host_.data.get(); }  ///< Zeros at first.
  [[nodiscard]] const OrtValue* device_value() const noexcept { return device_.value.get(); }

  /// Both return when the copy is complete.
  void upload() const { memory_->copy(host_, device_, bytes_); }
  void download() const { memory_->copy(device_, host_, bytes_); }

 private:
  const Memory* memory_ = nullptr;
  std::size_t bytes_ = 0;
  Memory::Side host_;
  Memory::Side device_;
};

}  // namespace datasentinel::onnxruntime
