#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <optional>

#include "backends/fused/packed_program.h"

namespace datasentinel::fused {

/// Scratch frames for concurrent calls, handed out without locks: each slot keeps its frame for ever, a flag
/// says whether a call is using it. Calls beyond kSlots at once allocate a frame of their own. Thread-safe.
class FramePool {
 public:
  explicit FramePool(std::size_t floats) : floats_(floats) {}
  FramePool(const FramePool&) = delete;
  FramePool& operator=(const FramePool&) = delete;

 private:
  static constexpr std::size_t kSlots = 64;

  struct alignas(64) Slot {
    std::atomic<bool> busy{false};
    AlignedFloats frame;  ///< Touched only by the call that set `busy`.
  };

 public:
  /// The use of one frame during one call.
  class Lease {
   public:
    explicit Lease(FramePool& pool) {
      for (Slot& slot : pool.slots_) {
        if (slot.busy.load(std::memory_order_relaxed) ||
            slot.busy.exchange(true, std::memory_order_acquire)) {
          continue;
        }
        slot_ = &slot;
        if (slot.frame.size() == 0) allocate(slot, pool.floats_);
        data_ = slot.frame.data();
        return;
      }
      own_.emplace(pool.floats_);
      data_ = own_->data();
    }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    ~Lease() {
      if (slot_ != nullptr) slot_->busy.store(false, std::memory_order_release);
    }

    [[nodiscard]] float* data() const noexcept { return data_; }

   private:
    static void allocate(Slot& slot, std::size_t floats) {
      try {
        slot.frame = AlignedFloats(floats);
      } catch (...) {
        slot.busy.store(false, std::memory_order_release);
        throw;
      }
    }

    Slot* slot_ = nullptr;
    std::optional<AlignedFloats> own_;
    float* data_ = nullptr;
  };

 private:
  std::size_t floats_;
  std::array<Slot, kSlots> slots_;
};

}  // namespace datasentinel::fused
