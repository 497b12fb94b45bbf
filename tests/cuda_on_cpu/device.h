// The simulated device, and what every call to it goes through.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "faults.h"
#include "memory.h"
#include "modules.h"
#include "streams.h"

namespace cuda_on_cpu {

// Numbers of CUresult.
enum Result {
  success = 0,
  invalid_value = 1,
  out_of_memory = 2,
  not_initialised = 3,
  no_device = 100,
  invalid_device = 101,
  invalid_image = 200,
  invalid_context = 201,
  no_binary_for_gpu = 209,
  invalid_handle = 400,
  not_found = 500,
  illegal_address = 700,
  launch_failed = 719,
  capture_unsupported = 900,
  capture_unmatched = 903,
  invalid_cluster_size = 912,
};

/// After these the context never works again.
constexpr bool is_sticky(int error) {
  return error == 700 || error == 702 || error == 710 || (error >= 714 && error <= 719);
}

enum class Needs : std::uint8_t { nothing, initialised, context };

inline void* const kContext = reinterpret_cast<void*>(std::uintptr_t{0xc0117e87});
inline thread_local void* current = nullptr;
inline thread_local Streams::Id thread_stream = 0;

/// The handles of modules and functions, never used twice.
template <typename T>
class Handles {
 public:
  explicit Handles(const char* what, std::uintptr_t first) : what_(what), first_(first), next_(first) {}
  void* add(std::unique_ptr<T> object) {
    objects_[next_] = std::move(object);
    return reinterpret_cast<void*>(next_++);
  }
  /// Null for what never was one.
  [[nodiscard]] T* find(const void* handle) const {
    const auto number = reinterpret_cast<std::uintptr_t>(handle);
    if (const auto found = objects_.find(number); found != objects_.end()) return found->second.get();
    if (number >= first_ && number < next_) die(std::string(what_) + " is used after it was unloaded");
    return nullptr;
  }
  void remove(const void* handle) { objects_.erase(reinterpret_cast<std::uintptr_t>(handle)); }
  template <typename Condition>
  void remove_if(Condition condition) {
    std::erase_if(objects_, [&](const auto& entry) { return condition(*entry.second); });
  }
  [[nodiscard]] std::size_t size() const noexcept { return objects_.size(); }

 private:
  const char* what_;
  std::uintptr_t first_;
  std::uintptr_t next_;
  std::map<std::uintptr_t, std::unique_ptr<T>> objects_;
};

struct Device {
  std::mutex mutex;
  const std::string name = setting("CUDA_ON_CPU_NAME", "CUDA on a CPU");
  const std::string capability = setting("CUDA_ON_CPU_CAPABILITY", "9.0");
  const int major = std::stoi(capability);
  const int minor = std::stoi(capability.substr(capability.find('.') + 1));
  const int multiprocessors = static_cast<int>(number("CUDA_ON_CPU_MULTIPROCESSORS", 132));
  const int shared_bytes = static_cast<int>(number("CUDA_ON_CPU_SHARED_KIB", 227) << 10);
  bool is_initialised = false;
  int retained = 0;
  int broken = 0;  ///< The sticky error that every call gives from now on.
  Faults faults{setting("CUDA_ON_CPU_FAIL", "")};
  Memory memory{static_cast<std::size_t>(number("CUDA_ON_CPU_MEMORY_MIB", 1024)) << 20};
  Streams streams{static_cast<unsigned>(number("CUDA_ON_CPU_SEED", 1))};
  Handles<Module> modules{"a module", 0x30d00000};
  Handles<Function> functions{"a kernel", 0xf0000000};
  Handles<Streams::Graph> graphs{"a graph", 0x60a00000};
  Handles<Streams::Graph> executables{"an executable graph", 0x60b00000};

  /// Takes note of what went wrong while the device worked.
  int result(int error) {
    if (is_sticky(error)) {
      broken = error;
      streams.abandon();
    }
    return error;
  }

  [[nodiscard]] std::string leaks() const {
    std::string text;
    for (const auto& [address, area] : memory.areas()) {
      text += (area.on_host ? "page-locked memory of " : "device memory of ") + std::to_string(area.bytes) +
              " bytes\n";
    }
    if (streams.alive() != 0) text += "streams: " + std::to_string(streams.alive()) + "\n";
    if (graphs.size() + executables.size() != 0) {
      text += "graphs: " + std::to_string(graphs.size() + executables.size()) + "\n";
    }
    if (modules.size() != 0) text += "modules: " + std::to_string(modules.size()) + "\n";
    return text;
  }
};

/// Never destroyed: other libraries may still call while the process ends.
inline Device& device() {
  static Device* const only = new Device;
  return *only;
}

/// What every call goes through: errors on demand, sticky errors, and whether it may be made at all. With
/// `always`, what it gives back is given back even so.
template <typename Body>
int call(const char* function, Needs needs, Body body, bool always = false) {
  Device& d = device();
  const std::lock_guard lock(d.mutex);
  const int planned = d.result(d.faults.next(function));
  if (needs != Needs::nothing && !d.is_initialised) return not_initialised;
  if (needs == Needs::context && (current == nullptr || d.retained == 0)) return invalid_context;
  int error = d.broken != 0 ? d.broken : planned;
  if (error == 0) error = d.result(d.streams.advance());
  if (error != 0 && !always) return error;
  const int done = d.result(body(d));
  return error != 0 ? error : done;
}

template <typename Body>
int give_back(const char* function, Body body) {
  return call(function, Needs::context, body, true);
}

/// The stream of a handle, or 0 for an error.
inline Streams::Id stream_of(Device& d, void* handle) {
  auto id = static_cast<Streams::Id>(reinterpret_cast<std::uintptr_t>(handle));
  if (id == 0) id = Streams::kLegacy;
  if (id == 2) {
    if (thread_stream == 0) thread_stream = d.streams.make(true, true);
    id = thread_stream;
  }
  if (d.streams.was_destroyed(id)) die("a stream is used after it was destroyed");
  return d.streams.exists(id) ? id : 0;
}

}  // namespace cuda_on_cpu
