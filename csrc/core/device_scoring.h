#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "core/tensor.h"

namespace datasentinel {

/// Memory on a device, given back with the last reference.
class DeviceBlock {
 public:
  DeviceBlock() = default;
  DeviceBlock(const DeviceBlock&) = delete;
  DeviceBlock& operator=(const DeviceBlock&) = delete;
  virtual ~DeviceBlock() = default;
  [[nodiscard]] virtual std::uint64_t address() const noexcept = 0;
};

/// What a session offers that scores rows where they lie in a CUDA device's memory. Thread-safe.
class DeviceScoring {
 public:
  /// Least alignment of the rows' address, in bytes.
  static constexpr std::uint64_t kAlignment = 16;

  DeviceScoring() = default;
  DeviceScoring(const DeviceScoring&) = delete;
  DeviceScoring& operator=(const DeviceScoring&) = delete;
  virtual ~DeviceScoring() = default;

  /// The device's number, as CUDA counts.
  [[nodiscard]] virtual int device() const noexcept = 0;
  /// The stream that the work runs on: what it reads must be ready on that stream.
  [[nodiscard]] virtual std::uint64_t stream() const noexcept = 0;
  /// Waits for the work of another stream (1: the legacy default stream, 2: that of the thread).
  virtual void wait_for(std::uint64_t stream) = 0;
  [[nodiscard]] virtual std::shared_ptr<const DeviceBlock> allocate(std::size_t bytes) = 0;

  /// Scores `count` float32 rows at `rows` into `scores`, one float32 a row, and waits until they are there.
  /// Gives the first value that is not finite; the scores mean nothing then.
  [[nodiscard]] virtual std::optional<Cell> score(std::uint64_t rows, std::size_t count,
                                                  std::uint64_t scores) = 0;
};

}  // namespace datasentinel
