#include "backends/onnxruntime/memory.h"

#include <array>
#include <cstring>
#include <string>
#include <utility>

#include "core/error.h"

namespace datasentinel::onnxruntime {
namespace {

MemoryInfo describe(const Api& api, const char* name, int memory_type) {
  MemoryInfo info(api);
  api.check(api.CreateMemoryInfo(name, kAllocatorDevice, 0, memory_type, info.out()), "describing memory");
  return info;
}

MemoryInfo device_of(const Api& api, Provider provider) {
  return describe(api, provider == Provider::cpu ? "Cpu" : "Cuda", kMemTypeDefault);
}

MemoryInfo host_of(const Api& api, Provider provider) {
  return provider == Provider::cpu ? describe(api, "Cpu", kMemTypeDefault)
                                   : describe(api, "CudaPinned", kMemTypeCpuOutput);
}

}  // namespace

Value make_tensor(const Api& api, const OrtMemoryInfo* where, const float* data, Shape shape) {
  const std::array<std::int64_t, 2> dims{static_cast<std::int64_t>(shape.rows),
                                         static_cast<std::int64_t>(shape.columns)};
  Value value(api);
  api.check(api.CreateTensorWithDataAsOrtValue(where, const_cast<float*>(data), shape.bytes(), dims.data(),
                                               shape.rank, kElementTypeFloat, value.out()),
            "binding a tensor");
  return value;
}

Place::Place(const Api& api, const OrtSession* session, MemoryInfo info)
    : api_(&api), info_(std::move(info)), allocator_(api) {
  api.check(api.CreateAllocator(session, info_.get(), allocator_.out()), "asking for memory");
}

void Place::Free::operator()(float* data) const noexcept {
  // A failure to free has no remedy, and after an error of CUDA every call fails.
  if (OrtStatus* status = api->AllocatorFree(allocator, data)) api->ReleaseStatus(status);
}

Place::Block Place::allocate(std::size_t bytes) const {
  void* data = nullptr;
  api_->check(api_->AllocatorAlloc(allocator_.get(), bytes, &data), "allocating memory");
  return Block(static_cast<float*>(data), Free{.api = api_, .allocator = allocator_.get()});
}

Memory::Memory(std::shared_ptr<Runtime> runtime, const OrtSession* session, Provider provider)
    : runtime_(std::move(runtime)),
      device_(runtime_->api, session, device_of(runtime_->api, provider)),
      host_(runtime_->api, session, host_of(runtime_->api, provider)) {
  if (!api().copies_tensors()) {
    throw Error(ErrorCode::unavailable,
                "ONNX Runtime " + api().version() + " does not copy tensors; 1.23 and later do");
  }
  try {
    try_copies();
  } catch (const Error&) {
    if (provider == Provider::cpu) throw;
    // Copies outside a run are only known for libraries registered with the environment, which this one may
    // not be yet. Of two threads that get here, the later is told that it is registered.
    try {
      runtime_->register_cuda_copies();
    } catch (const Error&) {
      try_copies();
      return;
    }
    try_copies();
  }
}

void Memory::copy(const OrtValue* from, OrtValue* to) const {
  api().check(api().CopyTensors(runtime_->env.get(), &from, &to, nullptr, 1),
              "copying between host and device");
}

void Memory::try_copies() const {
  const StagedTensor number(*this, {.rows = 1});
  constexpr float kAnyNumber = 1234.5F;
  *number.host() = kAnyNumber;
  number.upload();
  *number.host() = 0;
  number.download();
  if (*number.host() != kAnyNumber) {
    throw Error(ErrorCode::backend_failure,
                "ONNX Runtime copied a number to the device and back, and changed it");
  }
}

StagedTensor::StagedTensor(const Memory& memory, Shape shape)
    : memory_(&memory),
      host_(memory.host().allocate(shape.bytes())),
      device_(memory.device().allocate(shape.bytes())),
      host_value_(make_tensor(memory.api(), memory.host().info(), host_.get(), shape)),
      device_value_(make_tensor(memory.api(), memory.device().info(), device_.get(), shape)) {
  std::memset(host_.get(), 0, shape.bytes());
}

}  // namespace datasentinel::onnxruntime
