#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace datasentinel {

/// Finds every frame in what an HTTP/2 client sends, however it is cut: libnghttp2 reports none of those
/// that it ignores.
class Http2FrameReader {
 public:
  /// Calls `take(type, payload_bytes)` for each frame whose header ends in these bytes.
  template <typename Take>
  void read(std::string_view bytes, Take take) {
    while (true) {
      const std::size_t passed = std::min(left_, bytes.size());
      bytes.remove_prefix(passed);
      left_ -= passed;
      const std::size_t size = std::min(header_.size() - filled_, bytes.size());
      std::copy_n(bytes.data(), size, header_.data() + filled_);
      bytes.remove_prefix(size);
      filled_ += size;
      if (filled_ < header_.size()) return;
      filled_ = 0;
      left_ = (byte(0) << 16) | (byte(1) << 8) | byte(2);
      take(static_cast<std::uint8_t>(byte(3)), left_);
    }
  }

 private:
  [[nodiscard]] std::size_t byte(std::size_t index) const noexcept {
    return static_cast<unsigned char>(header_[index]);
  }

  static constexpr std::size_t kPrefaceBytes = 24;
  std::array<char, 9> header_{};
  std::size_t filled_ = 0;            ///< So much of the next header has come.
  std::size_t left_ = kPrefaceBytes;  ///< Before it.
};

}  // namespace datasentinel
