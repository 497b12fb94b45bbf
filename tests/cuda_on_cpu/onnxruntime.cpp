// Stands in for ONNX Runtime with its CUDA and TensorRT providers: the real library, whose path is
// CUDA_ON_CPU_ONNXRUNTIME, runs everything on the CPU, and the device's memory is the CPU's. Calls fail on
// demand; what is made and not yet released is counted.

#include <dlfcn.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <string_view>
#include <type_traits>

#include "backends/onnxruntime/api.h"
#include "faults.h"

namespace {

using namespace datasentinel::onnxruntime;

/// OrtApiBase.
struct Base {
  const void* const* (*table)(std::uint32_t version);
  const char* (*version)();
};

// What only the stand-in calls.
constexpr std::size_t kCreateStatus = 0;
constexpr std::size_t kGetTensorMutableData = 51;
constexpr std::size_t kGetTensorShapeElementCount = 64;
constexpr std::size_t kGetTensorTypeAndShape = 65;
constexpr std::size_t kReleaseTensorTypeAndShapeInfo = 99;
constexpr std::size_t kFunctions = 387;

std::mutex mutex;
cuda_on_cpu::Faults faults("");
long alive = 0;
std::string version;  // Empty: the real library's.

const Base& real_base() {
  static const Base* const base = [] {
    void* const library = dlopen(CUDA_ON_CPU_ONNXRUNTIME, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) cuda_on_cpu::die(dlerror());
    return reinterpret_cast<const Base* (*)()>(dlsym(library, "OrtGetApiBase"))();
  }();
  return *base;
}

template <typename Function>
Function real(std::size_t index) {
  static const void* const* const table = real_base().table(kCopyApiVersion);
  if (table == nullptr) cuda_on_cpu::die("ONNX Runtime 1.23 or later is needed");
  return reinterpret_cast<Function>(const_cast<void*>(table[index]));
}

OrtStatus* status(int code, const char* text) {
  return real<OrtStatus* (*)(int, const char*)>(kCreateStatus)(code, text);
}

void count(long change) {
  const std::lock_guard lock(mutex);
  alive += change;
}

int planned(const char* name) {
  const std::lock_guard lock(mutex);
  return faults.next(name);
}

constexpr bool makes(std::string_view name) {
  return name.starts_with("Create") || name.starts_with("SessionGetInputTypeInfo") ||
         name == "AllocatorAlloc" || name == "SessionGetOutputTypeInfo" || name == "SessionGetInputName" ||
         name == "SessionGetOutputName";
}

/// An entry of the table: `simulated` where the CPU's library has nothing to offer, otherwise the real
/// function.
template <std::size_t kIndex, typename Function>
struct Entry;

template <std::size_t kIndex, typename Result, typename... Arguments>
struct Entry<kIndex, Result (*)(Arguments...)> {
  static inline const char* name = nullptr;
  static inline Result (*simulated)(Arguments...) = nullptr;

  static Result answer(Arguments... arguments) {
    return (simulated != nullptr ? simulated : real<Result (*)(Arguments...)>(kIndex))(arguments...);
  }

  /// Fails with the code that is planned; -1 is to do nothing, and to say that all is well.
  static Result call(Arguments... arguments) {
    const std::string_view what(name);
    if constexpr (std::is_same_v<Result, OrtStatus*>) {
      const int code = planned(name);
      OrtStatus* result = nullptr;
      // What is not released is not released twice, either.
      if (code == 0 || what == "AllocatorFree") result = answer(arguments...);
      if (what == "AllocatorFree") count(-1);
      if (code > 0) result = status(code, "as told");
      if (code == 0 && result == nullptr && makes(what)) count(1);
      if (result != nullptr) count(1);
      return result;
    } else {
      if (what.starts_with("Release")) count(-1);
      return answer(arguments...);
    }
  }
};

// ------------------------------------------------------------------------------- What the CPU has not got

OrtStatus* available_providers(char*** names, int* number) {
  static std::array<std::string, 3> all = {"TensorrtExecutionProvider", "CUDAExecutionProvider",
                                           "CPUExecutionProvider"};
  static std::array<char*, 3> pointers = {all[0].data(), all[1].data(), all[2].data()};
  *names = pointers.data();
  *number = static_cast<int>(pointers.size());
  return nullptr;
}

OrtStatus* memory_info(const char* /*name*/, int allocator, int id, int /*type*/, OrtMemoryInfo** out) {
  using Create = OrtStatus* (*)(const char*, int, int, int, OrtMemoryInfo**);
  return real<Create>(68)("Cpu", allocator, id, kMemTypeDefault, out);
}

OrtStatus* config_entry(OrtSessionOptions* options, const char* key, const char* value) {
  if (std::string_view(key) == "session.disable_cpu_ep_fallback") return nullptr;
  return real<OrtStatus* (*)(OrtSessionOptions*, const char*, const char*)>(130)(options, key, value);
}

template <typename Options>
OrtStatus* provider_options(Options** out) {
  static int any;
  *out = reinterpret_cast<Options*>(&any);
  return nullptr;
}

OrtStatus* copy_tensors(const OrtEnv* /*env*/, const OrtValue* const* from, OrtValue* const* to,
                        OrtSyncStream* /*stream*/, std::size_t number) {
  struct Info;
  const auto data = real<OrtStatus* (*)(OrtValue*, void**)>(kGetTensorMutableData);
  for (std::size_t i = 0; i < number; ++i) {
    Info* info = nullptr;
    std::size_t size = 0;
    void* source = nullptr;
    void* target = nullptr;
    if (real<OrtStatus* (*)(const OrtValue*, Info**)>(kGetTensorTypeAndShape)(from[i], &info) != nullptr ||
        real<OrtStatus* (*)(const Info*, std::size_t*)>(kGetTensorShapeElementCount)(info, &size) !=
            nullptr ||
        data(const_cast<OrtValue*>(from[i]), &source) != nullptr || data(to[i], &target) != nullptr) {
      cuda_on_cpu::die("a copy of what is no tensor");
    }
    real<void (*)(Info*)>(kReleaseTensorTypeAndShapeInfo)(info);
    std::memcpy(target, source, size * sizeof(float));
  }
  return nullptr;
}

template <typename... Arguments>
OrtStatus* nothing(Arguments... /*arguments*/) {
  return nullptr;
}

template <typename T>
void keep(T* /*object*/) {}

const void* const* own_table() {
  static const auto table = [] {
    std::array<const void*, kFunctions> entries{};
#define CUDA_ON_CPU_ENTRY(index, function, result, ...)          \
  using function##Entry = Entry<index, result (*)(__VA_ARGS__)>; \
  function##Entry::name = #function;                             \
  entries[index] = reinterpret_cast<const void*>(&function##Entry::call);
    DATASENTINEL_ORT_FUNCTIONS(CUDA_ON_CPU_ENTRY)
    DATASENTINEL_ORT_COPY_FUNCTIONS(CUDA_ON_CPU_ENTRY)
#undef CUDA_ON_CPU_ENTRY
    GetAvailableProvidersEntry::simulated = available_providers;
    ReleaseAvailableProvidersEntry::simulated = nothing;
    CreateMemoryInfoEntry::simulated = memory_info;
    AddSessionConfigEntryEntry::simulated = config_entry;
    CreateCUDAProviderOptionsEntry::simulated = provider_options;
    UpdateCUDAProviderOptionsEntry::simulated = nothing;
    SessionOptionsAppendExecutionProvider_CUDA_V2Entry::simulated = nothing;
    ReleaseCUDAProviderOptionsEntry::simulated = keep;
    CreateTensorRTProviderOptionsEntry::simulated = provider_options;
    SessionOptionsAppendExecutionProvider_TensorRT_V2Entry::simulated = nothing;
    ReleaseTensorRTProviderOptionsEntry::simulated = keep;
    RegisterExecutionProviderLibraryEntry::simulated = nothing;
    CopyTensorsEntry::simulated = copy_tensors;
    return entries;
  }();
  return table.data();
}

const char* own_version() { return version.empty() ? real_base().version() : version.c_str(); }

const void* const* table_of(std::uint32_t asked) {
  const std::string text = own_version();
  const std::size_t dot = text.find('.');
  const unsigned long minor =
      dot == std::string::npos ? 0 : std::strtoul(text.c_str() + dot + 1, nullptr, 10);
  return asked <= minor ? own_table() : nullptr;
}

}  // namespace

#define EXPORTED extern "C" __attribute__((visibility("default")))

EXPORTED const Base* OrtGetApiBase() {
  static const Base base{table_of, own_version};
  return &base;
}

EXPORTED void onnxruntime_on_cpu_fail(const char* plan) {
  const std::lock_guard lock(mutex);
  faults.set(plan);
}

EXPORTED long onnxruntime_on_cpu_calls() {
  const std::lock_guard lock(mutex);
  return faults.calls("*");
}

EXPORTED long onnxruntime_on_cpu_alive() {
  const std::lock_guard lock(mutex);
  return alive;
}

EXPORTED void onnxruntime_on_cpu_version(const char* text) { version = text; }
