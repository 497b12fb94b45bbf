// What streams do: copies and launches.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "device.h"

namespace cuda_on_cpu {

/// Finds the bytes behind a device address, or gives null.
inline char* bytes_at(const Device& d, std::uint64_t address, std::size_t bytes) {
  const Memory::Area* area = d.memory.find(address);
  if (area == nullptr || bytes > area->bytes - (address - area->address)) return nullptr;
  return area->data + (address - area->address);
}

/// A copy's two ends, checked when it is asked for, touched when it is done.
inline int copy(Device& d, void* target, const void* source, std::size_t bytes, void* stream,
                std::uint64_t address, const void* host) {
  const Streams::Id id = stream_of(d, stream);
  if (id == 0) return invalid_handle;
  std::vector<std::uint64_t> addresses{d.memory.find(address)->address};
  if (const Memory::Area* area = d.memory.find_host(host)) {
    if (static_cast<const char*>(host) + bytes > area->data + area->bytes) return invalid_value;
    addresses.push_back(area->address);
  }
  d.streams.add(id, {.run =
                         [=] {
                           if (!survives([&] { std::memcpy(target, source, bytes); })) {
                             die("a copy to or from host memory that is gone or too small");
                           }
                           return 0;
                         },
                     .addresses = std::move(addresses)});
  return success;
}

/// CUlaunchConfig.
struct LaunchConfig {
  unsigned grid[3], block[3], shared_bytes;
  void* stream;
  void* attribute;
  unsigned attributes;
};

/// A launch's arguments, which are copied when it is asked for.
struct Launch {
  const EntryPoint* entry;
  int blocks, threads;
  std::size_t shared_bytes;
  std::vector<std::vector<char>> arguments;

  /// A graph does it again and again.
  [[nodiscard]] int run(const Device& d) const {
    std::vector<std::vector<char>> values = arguments;
    std::vector<void*> pointers;
    for (std::size_t i = 0; i < values.size(); ++i) {
      pointers.push_back(values[i].data());
      if (!entry->is_pointer[i]) continue;
      std::uint64_t address = 0;
      std::memcpy(&address, values[i].data(), sizeof address);
      if (address == 0) continue;
      const char* bytes = bytes_at(d, address, 1);
      if (bytes == nullptr) return illegal_address;
      std::memcpy(values[i].data(), &bytes, sizeof bytes);
    }
    const bool survived =
        survives([&] { entry->run(blocks, threads, shared_bytes, entry->cluster_size, pointers.data()); });
    return survived ? success : illegal_address;
  }
};

/// Blocks that a multiprocessor runs at a time. A block takes 1 KiB of shared memory beside its own; a
/// multiprocessor has that much more than a block may have.
inline int most_blocks(const Device& d, const Function& function, int threads, std::size_t shared_bytes) {
  const auto all_shared = static_cast<std::size_t>(d.shared_bytes + 1024);
  const int by_memory = static_cast<int>(all_shared / (shared_bytes + 1024));
  const bool fits = threads <= 1024 && shared_bytes <= static_cast<std::size_t>(function.shared_bytes);
  return fits ? std::min({32, 2048 / threads, by_memory}) : 0;
}

inline int launch(Device& d, void* handle, unsigned blocks, unsigned threads, unsigned shared_bytes,
                  void* stream, void** arguments) {
  const Function* const function = d.functions.find(handle);
  const Streams::Id id = stream_of(d, stream);
  if (function == nullptr || id == 0) return invalid_handle;
  if (blocks < 1 || blocks > 0x7fffffffU || threads < 1 || threads > 1024 ||
      shared_bytes > static_cast<unsigned>(function->shared_bytes)) {
    return invalid_value;
  }
  const EntryPoint& entry = *function->entry;
  if (blocks % static_cast<unsigned>(entry.cluster_size) != 0) return invalid_cluster_size;
  auto launch = std::make_shared<Launch>(Launch{.entry = &entry,
                                                .blocks = static_cast<int>(blocks),
                                                .threads = static_cast<int>(threads),
                                                .shared_bytes = shared_bytes,
                                                .arguments = {}});
  std::vector<std::uint64_t> addresses;
  for (int i = 0; i < entry.arguments; ++i) {
    const auto* const argument = static_cast<const char*>(arguments[i]);
    launch->arguments.emplace_back(argument, argument + entry.sizes[i]);
    if (!entry.is_pointer[i]) continue;
    std::uint64_t address = 0;
    std::memcpy(&address, argument, sizeof address);
    if (const Memory::Area* area = d.memory.find(address)) addresses.push_back(area->address);
  }
  d.streams.add(id, {.run = [launch, &d] { return launch->run(d); }, .addresses = std::move(addresses)});
  return success;
}

}  // namespace cuda_on_cpu
