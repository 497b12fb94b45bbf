#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>

namespace datasentinel {

/// A growing array of floats that is not cleared first and keeps its memory for the next use.
class FloatBuffer {
 public:
  [[nodiscard]] float* data() noexcept { return values_.get(); }
  [[nodiscard]] const float* data() const noexcept { return values_.get(); }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }

  /// Room for `count` more values behind those it has; what the room holds is undefined.
  [[nodiscard]] float* extend(std::size_t count) {
    if (count > capacity_ - size_) grow(count);
    size_ += count;
    return values_.get() + size_ - count;
  }

  void append(float value) {
    if (size_ == capacity_) grow(1);
    values_[size_++] = value;
  }

  void clear() noexcept { size_ = 0; }

  /// Forgets the last `count` values.
  void drop_last(std::size_t count) noexcept { size_ -= count; }

  /// Empties it, and frees memory that is more than a small request needs.
  void recycle() noexcept {
    size_ = 0;
    if (capacity_ <= kKept) return;
    values_.reset();
    capacity_ = 0;
  }

 private:
  static constexpr std::size_t kKept = 1024;

  void grow(std::size_t count) {
    const std::size_t capacity = std::max(size_ + count, 2 * capacity_);
    auto grown = std::make_unique_for_overwrite<float[]>(capacity);
    std::copy_n(values_.get(), size_, grown.get());
    values_ = std::move(grown);
    capacity_ = capacity;
  }

  std::unique_ptr<float[]> values_;
  std::size_t size_ = 0;
  std::size_t capacity_ = 0;
};

}  // namespace datasentinel
