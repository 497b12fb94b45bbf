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
  /// A stream of its own, for rows of which no stream is known: what is read must be ready on it. Streams are
  /// numbers as DLPack has them (1: the legacy default stream, 2: that of the thread).
  [[nodiscard]] virtual std::uint64_t stream() const noexcept = 0;
  /// Whether what is put on the stream is recorded for a CUDA graph: it can then not be waited for.
  [[nodiscard]] virtual bool is_captured(std::uint64_t stream) = 0;
  /// Waits for the work of another stream.
  virtual void wait_for(std::uint64_t stream) = 0;
  [[nodiscard]] virtual std::shared_ptr<const DeviceBlock> allocate(std::size_t bytes) = 0;

  /// Scores `count` float32 rows at `rows` into `scores`, one float32 a row, on `stream`, and waits until
  /// they are there. Returns the first value that is not finite; the scores mean nothing then.
  [[nodiscard]] virtual std::optional<Cell> score(std::uint64_t rows, std::size_t count, std::uint64_t scores,
                                                  std::uint64_t stream) = 0;

  /// As `score`, but returns at once: nothing is waited for or allocated, so that `stream` may be captured.
  /// The session must live until the work is done.
  virtual void launch(std::uint64_t rows, std::size_t count, std::uint64_t scores, std::uint64_t stream) = 0;

  /// The first value that is not finite in rows that `launch` has scored since this was asked last.
  [[nodiscard]] virtual std::optional<Cell> take_bad_value() = 0;
};

}  // namespace datasentinel
