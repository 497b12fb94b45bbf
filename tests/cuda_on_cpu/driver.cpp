// The part of libcuda.so.1 that our backends use, for a device that is simulated on the CPU.
//
// It does whatever CUDA allows and the host might not expect: see streams.h and memory.h. Where a real device
// would be undefined, it aborts and says why. Test equipment talks to it by the cuda_on_cpu_ functions at the
// end.
//
// Environment: CUDA_ON_CPU_DEVICES (1, or 0), _MEMORY_MIB, _NAME, _CAPABILITY (e.g. 9.0), _MULTIPROCESSORS,
// _MOST_CLUSTERS, _SHARED_KIB (of a block), _SEED (0: work is done only when it must), _FAIL (see faults.h),
// _REPORT (a file that gets calls and leaks at the end).

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "faults.h"
#include "memory.h"
#include "modules.h"
#include "streams.h"

namespace cuda_on_cpu {
namespace {

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

struct Words {
  int result;
  const char* text;
};
constexpr Words kWords[] = {
    {success, "no error"},
    {invalid_value, "invalid argument"},
    {out_of_memory, "out of memory"},
    {not_initialised, "initialization error"},
    {no_device, "no CUDA-capable device is detected"},
    {invalid_device, "invalid device ordinal"},
    {invalid_image, "device kernel image is invalid"},
    {invalid_context, "invalid device context"},
    {no_binary_for_gpu, "no kernel image is available for execution on the device"},
    {invalid_handle, "invalid resource handle"},
    {not_found, "named symbol not found"},
    {illegal_address, "an illegal memory access was encountered"},
    {launch_failed, "unspecified launch failure"},
    {invalid_cluster_size, "invalid cluster size"},
    {capture_unsupported, "operation not permitted when stream is capturing"},
    {capture_unmatched, "stream capture was not begun in this stream"},
};

/// After these the context never works again.
constexpr bool is_sticky(int error) {
  return error == 700 || error == 702 || error == 710 || (error >= 714 && error <= 719);
}

enum class Needs : std::uint8_t { nothing, initialised, context };

void* const kContext = reinterpret_cast<void*>(std::uintptr_t{0xc0117e87});
thread_local void* current = nullptr;
thread_local Streams::Id thread_stream = 0;

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
Device& device() {
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
Streams::Id stream_of(Device& d, void* handle) {
  auto id = static_cast<Streams::Id>(reinterpret_cast<std::uintptr_t>(handle));
  if (id == 0) id = Streams::kLegacy;
  if (id == 2) {
    if (thread_stream == 0) thread_stream = d.streams.make(true, true);
    id = thread_stream;
  }
  if (d.streams.was_destroyed(id)) die("a stream is used after it was destroyed");
  return d.streams.exists(id) ? id : 0;
}

/// Finds the bytes behind a device address, or gives null.
char* bytes_at(const Device& d, std::uint64_t address, std::size_t bytes) {
  const Memory::Area* area = d.memory.find(address);
  if (area == nullptr || bytes > area->bytes - (address - area->address)) return nullptr;
  return area->data + (address - area->address);
}

/// A copy's two ends, checked when it is asked for, touched when it is done.
int copy(Device& d, void* target, const void* source, std::size_t bytes, void* stream, std::uint64_t address,
         const void* host) {
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
int most_blocks(const Device& d, const Function& function, int threads, std::size_t shared_bytes) {
  const auto all_shared = static_cast<std::size_t>(d.shared_bytes + 1024);
  const int by_memory = static_cast<int>(all_shared / (shared_bytes + 1024));
  const bool fits = threads <= 1024 && shared_bytes <= static_cast<std::size_t>(function.shared_bytes);
  return fits ? std::min({32, 2048 / threads, by_memory}) : 0;
}

int launch(Device& d, void* handle, unsigned blocks, unsigned threads, unsigned shared_bytes, void* stream,
           void** arguments) {
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

}  // namespace
}  // namespace cuda_on_cpu

using namespace cuda_on_cpu;  // NOLINT: everything below is C.

#define EXPORTED extern "C" __attribute__((visibility("default")))
#define CUDA_FUNCTION EXPORTED int

CUDA_FUNCTION cuInit(unsigned flags) {
  return call("cuInit", Needs::nothing, [&](Device& d) -> int {
    if (flags != 0) return invalid_value;
    d.is_initialised = true;
    return success;
  });
}

CUDA_FUNCTION cuDriverGetVersion(int* version) {
  return call("cuDriverGetVersion", Needs::nothing, [&](Device&) -> int {
    *version = 13000;
    return success;
  });
}

// Works in any state, and is no call that could fail.
CUDA_FUNCTION cuGetErrorString(int error, const char** text) {
  const auto* const found = std::find_if(std::begin(kWords), std::end(kWords),
                                         [&](const Words& words) { return words.result == error; });
  *text = found == std::end(kWords) ? nullptr : found->text;
  return *text == nullptr ? invalid_value : success;
}

CUDA_FUNCTION cuDeviceGetCount(int* count) {
  return call("cuDeviceGetCount", Needs::initialised, [&](Device&) -> int {
    *count = static_cast<int>(number("CUDA_ON_CPU_DEVICES", 1));
    return success;
  });
}

CUDA_FUNCTION cuDeviceGet(int* which, int ordinal) {
  return call("cuDeviceGet", Needs::initialised, [&](Device&) -> int {
    if (ordinal != 0) return invalid_device;
    *which = 0;
    return success;
  });
}

CUDA_FUNCTION cuDeviceGetName(char* name, int size, int which) {
  return call("cuDeviceGetName", Needs::initialised, [&](Device& d) -> int {
    if (which != 0) return invalid_device;
    std::strncpy(name, d.name.c_str(), static_cast<std::size_t>(size));
    return success;
  });
}

CUDA_FUNCTION cuDeviceGetAttribute(int* value, int attribute, int which) {
  return call("cuDeviceGetAttribute", Needs::initialised, [&](Device& d) -> int {
    if (which != 0) return invalid_device;
    switch (attribute) {
      case 16: *value = d.multiprocessors; return success;
      case 75: *value = d.major; return success;
      case 76: *value = d.minor; return success;
      case 97: *value = d.shared_bytes; return success;
      case 120: *value = d.major >= 9 ? 1 : 0; return success;
      default: die("device attribute " + std::to_string(attribute) + " is not simulated");
    }
  });
}

CUDA_FUNCTION cuDevicePrimaryCtxRetain(void** context, int which) {
  return call("cuDevicePrimaryCtxRetain", Needs::initialised, [&](Device& d) -> int {
    if (which != 0) return invalid_device;
    ++d.retained;
    *context = kContext;
    return success;
  });
}

CUDA_FUNCTION cuDevicePrimaryCtxRelease_v2(int which) {
  return call(
      "cuDevicePrimaryCtxRelease_v2", Needs::initialised,
      [&](Device& d) -> int {
        if (which != 0) return invalid_device;
        if (d.retained == 0) return invalid_context;
        --d.retained;
        return success;
      },
      true);
}

CUDA_FUNCTION cuCtxSetCurrent(void* context) {
  return call("cuCtxSetCurrent", Needs::initialised, [&](Device& d) -> int {
    if (context != nullptr && (context != kContext || d.retained == 0)) return invalid_context;
    current = context;
    return success;
  });
}

CUDA_FUNCTION cuCtxSynchronize() {
  return call("cuCtxSynchronize", Needs::context, [&](Device& d) -> int {
    return d.streams.is_restricted_by_captures() ? static_cast<int>(capture_unsupported)
                                                 : d.streams.finish_all();
  });
}

CUDA_FUNCTION cuModuleLoadData(void** module, const void* image) {
  return call("cuModuleLoadData", Needs::context, [&](Device& d) -> int {
    auto loaded = std::make_unique<Module>();
    if (const int error = loaded->load(image, 10 * d.major + d.minor); error != 0) return error;
    *module = d.modules.add(std::move(loaded));
    return success;
  });
}

CUDA_FUNCTION cuModuleUnload(void* module) {
  return give_back("cuModuleUnload", [&](Device& d) -> int {
    const Module* const loaded = d.modules.find(module);
    if (loaded == nullptr) return invalid_handle;
    const int error = d.streams.finish_all();
    d.functions.remove_if([&](const Function& function) { return function.module == loaded; });
    d.modules.remove(module);
    return error;
  });
}

CUDA_FUNCTION cuModuleGetFunction(void** function, void* module, const char* name) {
  return call("cuModuleGetFunction", Needs::context, [&](Device& d) -> int {
    const Module* const loaded = d.modules.find(module);
    if (loaded == nullptr) return invalid_handle;
    const EntryPoint* const entry = loaded->find(name);
    if (entry == nullptr) return not_found;
    *function = d.functions.add(std::make_unique<Function>(Function{.module = loaded, .entry = entry}));
    return success;
  });
}

CUDA_FUNCTION cuFuncSetAttribute(void* handle, int attribute, int value) {
  return call("cuFuncSetAttribute", Needs::context, [&](Device& d) -> int {
    Function* const function = d.functions.find(handle);
    if (function == nullptr) return invalid_handle;
    if (attribute != 8) die("function attribute " + std::to_string(attribute) + " is not simulated");
    if (value < 0 || value > d.shared_bytes) return invalid_value;
    function->shared_bytes = value;
    return success;
  });
}

CUDA_FUNCTION cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void* handle, int threads,
                                                          std::size_t shared_bytes) {
  return call("cuOccupancyMaxActiveBlocksPerMultiprocessor", Needs::context, [&](Device& d) -> int {
    const Function* const function = d.functions.find(handle);
    if (function == nullptr) return invalid_handle;
    if (threads < 1) return invalid_value;
    *blocks = most_blocks(d, *function, threads, shared_bytes);
    return success;
  });
}

/// The kernel says itself how many blocks a cluster has; as many share a processing cluster of 16
/// multiprocessors as fit, unless less of the device is to be ours.
CUDA_FUNCTION cuOccupancyMaxActiveClusters(int* clusters, void* handle, const LaunchConfig* config) {
  return call("cuOccupancyMaxActiveClusters", Needs::context, [&](Device& d) -> int {
    const Function* const function = d.functions.find(handle);
    if (function == nullptr) return invalid_handle;
    const int size = function->entry->cluster_size;
    if (config->attributes != 0 || config->grid[0] % static_cast<unsigned>(size) != 0) return invalid_value;
    const int blocks = most_blocks(d, *function, static_cast<int>(config->block[0]), config->shared_bytes);
    const int fitting = blocks * 16 / size * (d.multiprocessors / 16);
    *clusters = std::min(fitting, static_cast<int>(number("CUDA_ON_CPU_MOST_CLUSTERS", fitting)));
    return success;
  });
}

CUDA_FUNCTION cuMemAlloc_v2(std::uint64_t* address, std::size_t bytes) {
  return call("cuMemAlloc_v2", Needs::context, [&](Device& d) -> int {
    if (bytes == 0) return invalid_value;
    if (d.streams.is_restricted_by_captures()) return capture_unsupported;
    const Memory::Area* const area = d.memory.allocate(bytes, false);
    if (area == nullptr) return out_of_memory;
    *address = area->address;
    return success;
  });
}

CUDA_FUNCTION cuMemFree_v2(std::uint64_t address) {
  return give_back("cuMemFree_v2", [&](Device& d) -> int {
    const Memory::Area* const area = d.memory.find(address);
    if (area == nullptr && d.memory.was_given_out(address)) die("device memory is freed twice");
    if (area == nullptr || area->on_host || area->address != address) return invalid_value;
    const int error = d.streams.finish_all();  // As CUDA does.
    d.memory.release(*area);
    return error;
  });
}

CUDA_FUNCTION cuMemHostAlloc(void** pointer, std::size_t bytes, unsigned flags) {
  return call("cuMemHostAlloc", Needs::context, [&](Device& d) -> int {
    if (flags != 0) die("cuMemHostAlloc with flags is not simulated");
    if (bytes == 0) return invalid_value;
    if (d.streams.is_restricted_by_captures()) return capture_unsupported;
    const Memory::Area* const area = d.memory.allocate(bytes, true);
    if (area == nullptr) return out_of_memory;
    *pointer = area->data;
    return success;
  });
}

CUDA_FUNCTION cuMemFreeHost(void* pointer) {
  return give_back("cuMemFreeHost", [&](Device& d) -> int {
    const Memory::Area* const area = d.memory.find_host(pointer);
    if (area == nullptr || area->data != pointer) return invalid_value;
    // CUDA does not promise to wait here.
    if (d.streams.touches(area->address))
      die("page-locked memory is freed while the device has yet to use it");
    d.memory.release(*area);
    return success;
  });
}

CUDA_FUNCTION cuMemHostRegister_v2(void* pointer, std::size_t bytes, unsigned flags) {
  return call("cuMemHostRegister_v2", Needs::context, [&](Device& d) -> int {
    if (flags != 0) die("cuMemHostRegister with flags is not simulated");
    if (pointer == nullptr || bytes == 0) return invalid_value;
    d.memory.lock(static_cast<char*>(pointer), bytes);
    return success;
  });
}

CUDA_FUNCTION cuMemHostUnregister(void* pointer) {
  return give_back("cuMemHostUnregister", [&](Device& d) -> int {
    const Memory::Area* const area = d.memory.find_host(pointer);
    if (area == nullptr || area->data != pointer || area->mapping != nullptr) return invalid_value;
    if (d.streams.touches(area->address)) die("memory is unlocked while the device has yet to use it");
    d.memory.release(*area);
    return success;
  });
}

CUDA_FUNCTION cuMemHostGetDevicePointer_v2(std::uint64_t* address, void* pointer, unsigned flags) {
  return call("cuMemHostGetDevicePointer_v2", Needs::context, [&](Device& d) -> int {
    const Memory::Area* const area = d.memory.find_host(pointer);
    if (area == nullptr || flags != 0) return invalid_value;
    *address = area->address + static_cast<std::uint64_t>(static_cast<char*>(pointer) - area->data);
    return success;
  });
}

CUDA_FUNCTION cuPointerGetAttribute(void* value, int attribute, std::uint64_t pointer) {
  return call("cuPointerGetAttribute", Needs::context, [&](Device& d) -> int {
    const auto* const on_host = reinterpret_cast<const char*>(pointer);
    const Memory::Area* area = d.memory.find_host(on_host);
    if (area == nullptr) area = d.memory.find(pointer);
    if (area == nullptr) return invalid_value;
    const bool is_host = area == d.memory.find_host(on_host);
    switch (attribute) {
      case 2: *static_cast<unsigned*>(value) = area->on_host ? 1 : 2; return success;
      case 3:
        *static_cast<std::uint64_t*>(value) =
            is_host ? area->address + static_cast<std::uint64_t>(on_host - area->data) : pointer;
        return success;
      case 7: *static_cast<std::uint64_t*>(value) = area->address; return success;  // Never used twice.
      default: die("attribute " + std::to_string(attribute) + " of a pointer is not simulated");
    }
  });
}

CUDA_FUNCTION cuMemcpyHtoD_v2(std::uint64_t target, const void* source, std::size_t bytes) {
  return call("cuMemcpyHtoD_v2", Needs::context, [&](Device& d) -> int {
    char* const at = bytes_at(d, target, bytes);
    if (at == nullptr) return invalid_value;
    if (const int error = d.streams.finish(Streams::kLegacy); error != 0) return error;
    if (d.memory.find_host(source) != nullptr) {
      std::memcpy(at, source, bytes);
      return success;
    }
    // From other memory it returns when that has been read; the bytes need not have arrived.
    const auto* const first = static_cast<const char*>(source);
    const auto staged = std::make_shared<std::vector<char>>(first, first + bytes);
    d.streams.add(Streams::kLegacy, {.run =
                                         [=] {
                                           std::memcpy(at, staged->data(), bytes);
                                           return 0;
                                         },
                                     .addresses = {d.memory.find(target)->address}});
    return success;
  });
}

CUDA_FUNCTION cuMemcpyHtoDAsync_v2(std::uint64_t target, const void* source, std::size_t bytes,
                                   void* stream) {
  return call("cuMemcpyHtoDAsync_v2", Needs::context, [&](Device& d) -> int {
    char* const at = bytes_at(d, target, bytes);
    return at == nullptr ? invalid_value : copy(d, at, source, bytes, stream, target, source);
  });
}

CUDA_FUNCTION cuMemcpyDtoHAsync_v2(void* target, std::uint64_t source, std::size_t bytes, void* stream) {
  return call("cuMemcpyDtoHAsync_v2", Needs::context, [&](Device& d) -> int {
    const char* const at = bytes_at(d, source, bytes);
    return at == nullptr ? invalid_value : copy(d, target, at, bytes, stream, source, target);
  });
}

CUDA_FUNCTION cuStreamCreate(void** stream, unsigned flags) {
  return call("cuStreamCreate", Needs::context, [&](Device& d) -> int {
    if (flags > 1) return invalid_value;
    *stream = reinterpret_cast<void*>(d.streams.make(flags == 0));
    return success;
  });
}

CUDA_FUNCTION cuStreamDestroy_v2(void* stream) {
  return give_back("cuStreamDestroy_v2", [&](Device& d) -> int {
    if (reinterpret_cast<std::uintptr_t>(stream) <= 2) return invalid_handle;
    const Streams::Id id = stream_of(d, stream);
    if (id == 0) return invalid_handle;
    d.streams.destroy(id);
    return success;
  });
}

CUDA_FUNCTION cuStreamSynchronize(void* stream) {
  return call("cuStreamSynchronize", Needs::context, [&](Device& d) -> int {
    const Streams::Id id = stream_of(d, stream);
    if (id == 0) return invalid_handle;
    return d.streams.is_captured(id) ? static_cast<int>(capture_unsupported) : d.streams.finish(id);
  });
}

CUDA_FUNCTION cuStreamIsCapturing(void* stream, int* status) {
  return call("cuStreamIsCapturing", Needs::context, [&](Device& d) -> int {
    const Streams::Id id = stream_of(d, stream);
    if (id == 0) return invalid_handle;
    *status = d.streams.is_captured(id) ? 1 : 0;
    return success;
  });
}

CUDA_FUNCTION cuStreamBeginCapture_v2(void* stream, int mode) {
  return call("cuStreamBeginCapture_v2", Needs::context, [&](Device& d) -> int {
    const Streams::Id id = stream_of(d, stream);
    if (id == 0) return invalid_handle;
    if (mode < 0 || mode > 2 || id == Streams::kLegacy) return invalid_value;
    return d.streams.begin_capture(id, static_cast<Streams::CaptureMode>(mode)) ? success : invalid_value;
  });
}

CUDA_FUNCTION cuStreamEndCapture(void* stream, void** graph) {
  return give_back("cuStreamEndCapture", [&](Device& d) -> int {
    const Streams::Id id = stream_of(d, stream);
    if (id == 0) return invalid_handle;
    if (!d.streams.is_captured(id)) return capture_unmatched;
    *graph = d.graphs.add(std::make_unique<Streams::Graph>(d.streams.end_capture(id)));
    return success;
  });
}

CUDA_FUNCTION cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long flags) {
  return call("cuGraphInstantiateWithFlags", Needs::context, [&](Device& d) -> int {
    const Streams::Graph* const found = d.graphs.find(graph);
    if (found == nullptr || flags != 0) return invalid_value;
    *executable = d.executables.add(std::make_unique<Streams::Graph>(*found));
    return success;
  });
}

CUDA_FUNCTION cuGraphLaunch(void* executable, void* stream) {
  return call("cuGraphLaunch", Needs::context, [&](Device& d) -> int {
    const Streams::Graph* const graph = d.executables.find(executable);
    const Streams::Id id = stream_of(d, stream);
    if (graph == nullptr || id == 0) return invalid_handle;
    for (const Streams::Work& work : *graph) d.streams.add(id, work);
    return success;
  });
}

CUDA_FUNCTION cuGraphDestroy(void* graph) {
  return give_back("cuGraphDestroy", [&](Device& d) -> int {
    if (d.graphs.find(graph) == nullptr) return invalid_value;
    d.graphs.remove(graph);
    return success;
  });
}

CUDA_FUNCTION cuGraphExecDestroy(void* executable) {
  return give_back("cuGraphExecDestroy", [&](Device& d) -> int {
    if (d.executables.find(executable) == nullptr) return invalid_value;
    d.executables.remove(executable);
    return success;
  });
}

CUDA_FUNCTION cuLaunchKernel(void* handle, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                             unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes,
                             void* stream, void** arguments, void** extra) {
  return call("cuLaunchKernel", Needs::context, [&](Device& d) -> int {
    if (grid_y != 1 || grid_z != 1 || block_y != 1 || block_z != 1 || extra != nullptr) {
      die("launches in several dimensions, and `extra`, are not simulated");
    }
    return launch(d, handle, grid_x, block_x, shared_bytes, stream, arguments);
  });
}

/// Fails other calls, and counts anew.
EXPORTED void cuda_on_cpu_fail(const char* plan) {
  const std::lock_guard lock(device().mutex);
  device().faults.set(plan);
}

/// How often a function was called ("*": all together).
EXPORTED long cuda_on_cpu_calls(const char* function) {
  const std::lock_guard lock(device().mutex);
  return device().faults.calls(function);
}

/// What was made and not given back, a line each; how long that text is.
EXPORTED std::size_t cuda_on_cpu_leaks(char* text, std::size_t size) {
  const std::lock_guard lock(device().mutex);
  const std::string leaks = device().leaks();
  if (size > 0) text[leaks.copy(text, size - 1)] = '\0';
  return leaks.size();
}

__attribute__((destructor)) static void report() {
  const std::string path = setting("CUDA_ON_CPU_REPORT", "");
  if (path.empty()) return;
  std::ofstream file(path);
  file << "launches: " << cuda_on_cpu_calls("cuLaunchKernel") << "\n" << device().leaks();
}
