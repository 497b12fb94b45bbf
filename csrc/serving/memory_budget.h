#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <memory>
#include <utility>

namespace datasentinel {

/// What a connection may hold of a message that has begun without asking the budget.
inline constexpr std::size_t kOwnBytes = std::size_t{64} << 10;

/// How much all connections together may hold of what clients sent and are owed. Thread-safe.
class MemoryBudget {
 public:
  explicit MemoryBudget(std::size_t bytes) noexcept : bytes_(bytes) {}

  [[nodiscard]] std::size_t used() const noexcept { return used_.load(std::memory_order_relaxed); }

  /// Takes so many bytes and returns true, or takes none and returns false.
  [[nodiscard]] bool take(std::size_t bytes) noexcept {
    std::size_t used = used_.load(std::memory_order_relaxed);
    do {
      if (bytes > bytes_ || used > bytes_ - bytes) return false;
    } while (!used_.compare_exchange_weak(used, used + bytes, std::memory_order_relaxed));
    return true;
  }

  /// What any one connection may hold: an eighth of what is free. However many hold all they may, something
  /// is left for the next ("dynamic thresholds": Choudhury and Hahne, "Dynamic queue length thresholds for
  /// shared-memory packet switches", 1998).
  [[nodiscard]] std::size_t allowance() const noexcept { return (bytes_ - std::min(used(), bytes_)) / 8; }

  /// Takes what is held already, room or not.
  void add(std::size_t bytes) noexcept { used_.fetch_add(bytes, std::memory_order_relaxed); }

  void give_back(std::size_t bytes) noexcept { used_.fetch_sub(bytes, std::memory_order_relaxed); }

 private:
  std::size_t bytes_;
  std::atomic<std::size_t> used_{0};
};

/// Part of a budget, given back at the end.
class MemoryCharge {
 public:
  MemoryCharge() = default;
  explicit MemoryCharge(std::shared_ptr<MemoryBudget> budget) noexcept : budget_(std::move(budget)) {}
  MemoryCharge(MemoryCharge&& other) noexcept
      // What is moved from keeps its budget, and can be charged again.
      // NOLINTNEXTLINE(performance-move-constructor-init)
      : budget_(other.budget_), bytes_(std::exchange(other.bytes_, 0)) {}
  MemoryCharge& operator=(MemoryCharge&& other) noexcept {
    std::swap(budget_, other.budget_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  MemoryCharge(const MemoryCharge&) = delete;
  MemoryCharge& operator=(const MemoryCharge&) = delete;
  ~MemoryCharge() { release(); }

  [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }

  /// Grows or shrinks to so many bytes. False where the budget has no room for more; nothing has changed
  /// then.
  [[nodiscard]] bool resize(std::size_t bytes) noexcept {
    if (budget_ == nullptr) return true;
    if (bytes > bytes_ && !budget_->take(bytes - bytes_)) return false;
    if (bytes < bytes_) budget_->give_back(bytes_ - bytes);
    bytes_ = bytes;
    return true;
  }

  /// The same, room or not: for what is bounded by `MemoryBudget::allowance` before it is held.
  void set(std::size_t bytes) noexcept {
    if (budget_ == nullptr) return;
    if (bytes > bytes_) budget_->add(bytes - bytes_);
    if (bytes < bytes_) budget_->give_back(bytes_ - bytes);
    bytes_ = bytes;
  }

  void release() noexcept {
    if (budget_ != nullptr && bytes_ != 0) budget_->give_back(bytes_);
    bytes_ = 0;
  }

 private:
  std::shared_ptr<MemoryBudget> budget_;
  std::size_t bytes_ = 0;
};

}  // namespace datasentinel
