// Memory of the simulated device, and page-locked host memory.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "faults.h"

namespace cuda_on_cpu {

/// A device address leads nowhere on the host: whoever reads or writes there crashes. The bytes lie
/// elsewhere, right before a page that cannot be touched, and only the device's work finds them. Addresses
/// are never used twice.
class Memory {
 public:
  struct Area {
    std::uint64_t address = 0;  ///< As the device sees it.
    std::size_t bytes = 0;
    char* data = nullptr;
    bool on_host = false;
    char* mapping = nullptr;
    std::size_t mapped = 0;
  };

  explicit Memory(std::size_t most_bytes) : most_bytes_(most_bytes) {
    void* region = mmap(nullptr, kRegion, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (region == MAP_FAILED) die("no address space for the device");
    first_ = reinterpret_cast<std::uint64_t>(region);
    next_ = first_;
    fresh_ = memfd_create("fresh memory", MFD_CLOEXEC);
    // Not a number as float32, and no sensible value of other types.
    const std::vector<std::uint32_t> content(kFreshBytes / sizeof(std::uint32_t), 0x7fc0dead);
    if (write(fresh_, content.data(), kFreshBytes) != static_cast<ssize_t>(kFreshBytes)) die("memfd_create");
  }

  /// Null when there is not enough.
  const Area* allocate(std::size_t bytes, bool on_host) {
    if (!on_host && bytes > most_bytes_ - in_use_) return nullptr;
    const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    Area area{.address = next_, .bytes = bytes, .on_host = on_host};
    const std::size_t pages = (bytes + kAlignment + page - 1) / page * page;
    if (pages + kGap > first_ + kRegion - next_) die("all device addresses have been used");
    area.mapped = pages + 2 * page;
    void* mapping = mmap(nullptr, area.mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping == MAP_FAILED) return nullptr;
    area.mapping = static_cast<char*>(mapping);
    for (std::size_t at = 0; at < pages; at += kFreshBytes) {
      const std::size_t part = std::min(kFreshBytes, pages - at);
      if (mmap(area.mapping + page + at, part, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fresh_, 0) ==
          MAP_FAILED) {
        die("no memory on the host");
      }
    }
    area.data = area.mapping + page + pages - (bytes + kAlignment - 1) / kAlignment * kAlignment;
    next_ += (pages / kGap + 2) * kGap;
    if (!on_host) in_use_ += bytes;
    return &areas_.emplace(area.address, area).first->second;
  }

  /// Takes host memory of others as page-locked.
  const Area& lock(char* data, std::size_t bytes) {
    Area area{.address = next_, .bytes = bytes, .data = data, .on_host = true};
    next_ += (bytes / kGap + 2) * kGap;
    return areas_.emplace(area.address, area).first->second;
  }

  void release(const Area& area) {
    if (!area.on_host) in_use_ -= area.bytes;
    if (area.mapping != nullptr) munmap(area.mapping, area.mapped);
    areas_.erase(area.address);
  }

  /// The area that holds the device address, or null.
  [[nodiscard]] const Area* find(std::uint64_t address) const {
    auto after = areas_.upper_bound(address);
    if (after == areas_.begin()) return nullptr;
    const Area& area = std::prev(after)->second;
    return address - area.address < area.bytes ? &area : nullptr;
  }

  /// Page-locked memory by its address on the host, or null.
  [[nodiscard]] const Area* find_host(const void* pointer) const {
    for (const auto& [address, area] : areas_) {
      const auto distance = static_cast<std::size_t>(static_cast<const char*>(pointer) - area.data);
      if (area.on_host && distance < area.bytes) return &area;
    }
    return nullptr;
  }

  /// True for what was a device address at some time.
  [[nodiscard]] bool was_given_out(std::uint64_t address) const noexcept {
    return address >= first_ && address < next_;
  }

  [[nodiscard]] const std::map<std::uint64_t, Area>& areas() const noexcept { return areas_; }

 private:
  static constexpr std::size_t kRegion = std::size_t{1} << 40;
  static constexpr std::size_t kGap = std::size_t{1} << 16;
  static constexpr std::size_t kAlignment = 16;  // Of the bytes; device addresses have kGap's.

  static constexpr std::size_t kFreshBytes = std::size_t{2} << 20;

  std::size_t most_bytes_;
  int fresh_ = -1;  ///< A file that fresh memory is a private copy of.
  std::size_t in_use_ = 0;
  std::uint64_t first_ = 0;
  std::uint64_t next_ = 0;
  std::map<std::uint64_t, Area> areas_;
};

}  // namespace cuda_on_cpu
