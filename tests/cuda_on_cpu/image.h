// What the simulated compiler hands to the simulated driver in place of a cubin.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace cuda_on_cpu {

/// One `__global__` function of a compiled text; the shared object exports it as `entry_point_<name>`.
struct EntryPoint {
  int arguments;
  const std::size_t* sizes;  ///< Of the arguments, in bytes.
  const bool* is_pointer;    ///< Which of them are addresses.
  int cluster_size;          ///< Blocks that wait for each other.
  void (*run)(int blocks, int threads, std::size_t shared_bytes, int cluster_size, void** arguments);
};

/// Stands before the shared object's bytes: a driver is not told an image's size.
struct ImageHeader {
  static constexpr std::string_view kMagic = "CUDA on a CPU";
  char magic[16];
  std::uint32_t architecture;  ///< e.g. 90
  std::uint32_t unused;
  std::uint64_t bytes;  ///< Of what follows.
  std::uint64_t checksum;
};

/// FNV-1a.
inline std::uint64_t checksum(std::string_view bytes) {
  std::uint64_t hash = 0xcbf29ce484222325U;
  for (const char byte : bytes) hash = (hash ^ static_cast<unsigned char>(byte)) * 0x100000001b3U;
  return hash;
}

}  // namespace cuda_on_cpu
