#include "backends/fused_cuda/copies.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>

#include "core/usable_cores.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace datasentinel::fused_cuda {
namespace {

// What one thread copies at a time. One core moves some 8 GB/s, a bus 25 to 60.
constexpr std::size_t kPartBytes = std::size_t{128} << 10;
constexpr unsigned kMostCopiers = 8;
// From one chunk to the next the device takes less.
constexpr std::chrono::microseconds kLookout{200};

#if defined(__SSE2__)
/// Into memory that no core reads: its caches keep what they have.
void copy_past_caches(char* to, const char* from, std::size_t bytes) noexcept {
  constexpr std::size_t kVector = sizeof(__m128i);
  std::size_t at = 0;
  if (reinterpret_cast<std::uintptr_t>(to) % kVector == 0) {
    for (; at + kVector <= bytes; at += kVector) {
      _mm_stream_si128(reinterpret_cast<__m128i*>(to + at),
                       _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + at)));
    }
    _mm_sfence();
  }
  std::memcpy(to + at, from + at, bytes - at);
}
#else
void copy_past_caches(char* to, const char* from, std::size_t bytes) noexcept {
  std::memcpy(to, from, bytes);
}
#endif

std::size_t part_count(const Copy& copy) { return (copy.bytes + kPartBytes - 1) / kPartBytes; }

}  // namespace

void Copy::run(std::size_t first, std::size_t most) const noexcept {
  const std::size_t count = std::min(most, bytes - first);
  if (is_for_device) {
    copy_past_caches(to + first, from + first, count);
  } else {
    std::memcpy(to + first, from + first, count);
  }
}

void Copiers::run(const Copies& copies) {
  std::size_t parts = 0;
  for (const Copy& copy : copies.all()) parts += part_count(copy);
  const auto copy_part = [&](std::size_t part) {
    for (const Copy& copy : copies.all()) {
      if (part < part_count(copy)) return copy.run(part * kPartBytes, kPartBytes);
      part -= part_count(copy);
    }
  };
  if (parts <= 1) {
    if (parts == 1) copy_part(0);
    return;
  }
  std::call_once(made_, [this] {
    const unsigned threads = std::min(usable_cores(), kMostCopiers);
    threads_ = std::make_unique<fused::ThreadPool>(threads - 1, kLookout);
  });
  threads_->run(parts, copy_part);
}

}  // namespace datasentinel::fused_cuda
