#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace datasentinel {

/// Bytes that were received and not used yet. What is taken from the front is not moved each time, and memory
/// that a burst needed is given back.
class InputBuffer {
 public:
  [[nodiscard]] std::string_view view() const noexcept { return std::string_view(bytes_).substr(used_); }
  [[nodiscard]] bool empty() const noexcept { return used_ == bytes_.size(); }
  [[nodiscard]] std::size_t size() const noexcept { return bytes_.size() - used_; }
  [[nodiscard]] std::size_t held_bytes() const noexcept { return bytes_.capacity(); }

  void append(std::string_view bytes) {
    if (used_ != 0 && used_ >= size()) {  // Each byte is moved once at most for each that was used.
      bytes_.erase(0, used_);
      used_ = 0;
    }
    bytes_.append(bytes);
  }

  void consume(std::size_t count) {
    used_ += count;
    if (used_ == bytes_.size()) clear();
  }

  void clear() {
    bytes_.clear();
    used_ = 0;
    if (bytes_.capacity() > kKeptBytes) bytes_.shrink_to_fit();
  }

 private:
  static constexpr std::size_t kKeptBytes = 4096;

  std::string bytes_;
  std::size_t used_ = 0;
};

}  // namespace datasentinel
