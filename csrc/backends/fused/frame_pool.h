#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <memory>

#include "backends/fused/packed_program.h"

namespace datasentinel::fused {

/// Scratch frames for concurrent calls, handed out and taken back without locks. A call that finds none gets
/// a new one; up to kKept are kept for the next calls. Thread-safe.
class FramePool {
 public:
  explicit FramePool(std::size_t floats) : floats_(floats) {}
  FramePool(const FramePool&) = delete;
  FramePool& operator=(const FramePool&) = delete;
  ~FramePool() {
    for (auto& slot : slots_) delete slot.load(std::memory_order_acquire);
  }

  /// Returns the frame to the pool when it goes out of scope.
  class Lease {
   public:
    explicit Lease(FramePool& pool) : pool_(pool), frame_(pool.take()) {}
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    ~Lease() { pool_.give_back(std::move(frame_)); }
    [[nodiscard]] float* data() const noexcept { return frame_->data(); }

   private:
    FramePool& pool_;
    std::unique_ptr<AlignedFloats> frame_;
  };

 private:
  static constexpr std::size_t kKept = 64;

  std::unique_ptr<AlignedFloats> take() {
    for (auto& slot : slots_) {
      if (slot.load(std::memory_order_relaxed) == nullptr) continue;
      if (AlignedFloats* frame = slot.exchange(nullptr, std::memory_order_acquire)) {
        return std::unique_ptr<AlignedFloats>(frame);
      }
    }
    return std::make_unique<AlignedFloats>(floats_);
  }

  void give_back(std::unique_ptr<AlignedFloats> frame) noexcept {
    for (auto& slot : slots_) {
      AlignedFloats* empty = nullptr;
      if (slot.load(std::memory_order_relaxed) == nullptr &&
          slot.compare_exchange_strong(empty, frame.get(), std::memory_order_release,
                                       std::memory_order_relaxed)) {
        static_cast<void>(frame.release());
        return;
      }
    }
  }

  std::size_t floats_;
  std::array<std::atomic<AlignedFloats*>, kKept> slots_{};
};

}  // namespace datasentinel::fused
