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
      ordinary_(provider == Provider::cpu),
      device_(runtime_->api, session, device_of(runtime_->api, provider)),
      host_(runtime_->api, session, host_of(runtime_->api, provider)) {
  if (ordinary_) return;
  const Api& api = runtime_->api;
  if (!api.copies_tensors()) {
    throw Error(ErrorCode::unavailable,
                "ONNX Runtime " + api.version() + " does not copy tensors; 1.23 and later do");
  }
  // Copies outside a run are only there for libraries registered with the environment, of which there is one
  // for the process: this one may be registered already, by us or by others.
  try {
    try_copies();
  } catch (const Error&) {
    runtime_->register_cuda_copies();
    try_copies();
  }
}

Memory::Side Memory::allocate(const Place& place, Shape shape) const {
  Side side{.data = place.allocate(shape.bytes()), .value = {}};
  side.value = make_tensor(runtime_->api, place.info(), side.data.get(), shape);
  return side;
}

void Memory::copy(const Side& from, const Side& to, std::size_t bytes) const {
  if (ordinary_) {
    std::memcpy(to.data.get(), from.data.get(), bytes);
    return;
  }
  const Api& api = runtime_->api;
  const OrtValue* source = from.value.get();
  OrtValue* target = to.value.get();
  api.check(api.CopyTensors(runtime_->env.get(), &source, &target, nullptr, 1),
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
    throw Error(ErrorCode::backend_failure, "a number changed on its way to the device and back");
  }
}

StagedTensor::StagedTensor(const Memory& memory, Shape shape)
    : memory_(&memory),
      bytes_(shape.bytes()),
      host_(memory.allocate(memory.host_, shape)),
      device_(memory.allocate(memory.device_, shape)) {
  std::memset(host_.data.get(), 0, bytes_);
}

}  // namespace datasentinel::onnxruntime
