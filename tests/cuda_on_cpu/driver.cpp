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
#include <iterator>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "device.h"
#include "work.h"

namespace cuda_on_cpu {
namespace {

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
