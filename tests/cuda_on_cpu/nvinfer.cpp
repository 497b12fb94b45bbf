// Stands in for TensorRT 11 and its ONNX parser: an engine that gives every row the score 0.5, by a copy on
// the stream that it is told. What a virtual function does that is not listed here ends the process.

#include <dlfcn.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <utility>

#include "backends/tensorrt/api.h"

namespace {

using datasentinel::tensorrt::abi::DataType;
using datasentinel::tensorrt::abi::Dims;
using datasentinel::tensorrt::abi::TensorIOMode;

constexpr int kColumns = 33;
constexpr int kMostRows = 1 << 16;

void unused() {
  std::fputs("nvinfer: a function that is not simulated\n", stderr);
  std::abort();
}

void keep(void* /*self*/) {}

template <typename Function>
void* address_of(Function* function) {
  return reinterpret_cast<void*>(function);
}

/// Virtual functions by their number. Those of an object with `impl` come after a destructor's two.
struct Table {
  std::array<void*, 64> functions;
  Table(int first, std::initializer_list<std::pair<int, void*>> used) {
    functions.fill(address_of(unused));
    for (int i = 0; i < first; ++i) functions[i] = address_of(keep);
    for (const auto& [number, function] : used) functions[first + number] = function;
  }
};

struct Implementation {
  const void* table;
};

/// What a factory returns.
struct Made {
  const void* table;
  Implementation* implementation;
};

/// One object for each table: none has a state that two engines could not share.
template <typename Tag>
Made* made(const Table& table) {
  static const Table own(2, {});
  static Implementation implementation{table.functions.data()};
  static Made object{own.functions.data(), &implementation};
  return &object;
}

struct Network;
struct Tensor;
struct Config;
struct Plan;
struct Builder;
struct Context;
struct Engine;
struct Runtime;

// ------------------------------------------------------------------------------------------------- Building

Made* input(void*, std::int32_t) {
  static const Table table(2, {{1, address_of(+[](void*) { return "input"; })},
                               {3, address_of(+[](void*) { return Dims{2, {1, kColumns}}; })}});
  return made<Tensor>(table);
}

Made* network(void*, std::uint32_t) {
  static const Table table(2, {{12, address_of(+[](void*) { return 1; })}, {13, address_of(input)}});
  return made<Network>(table);
}

Made* config(void*) {
  static const Table table(
      2, {{6, address_of(+[](void*, int) {})},
          {27, address_of(+[](void*, const void*, std::size_t) -> void* { return nullptr; })},
          {34, address_of(+[](void*, int) {})},
          {41, address_of(+[](void*, int) { return true; })}});
  return made<Config>(table);
}

Made* plan(void*, void*, void*) {
  static const Table table(2, {{0, address_of(+[](void*) -> const void* { return "plan"; })},
                               {1, address_of(+[](void*) -> std::size_t { return 4; })}});
  return made<Plan>(table);
}

// -------------------------------------------------------------------------------------------------- Running

// Of the context that was set up last: each is set up and run by one thread.
thread_local std::uint64_t scores = 0;
thread_local std::size_t rows = 0;

bool set_input_shape(void*, const char*, const Dims& shape) {
  rows = static_cast<std::size_t>(shape.d[0]);
  return true;
}

bool set_address(void*, const char* tensor, void* address) {
  if (std::strcmp(tensor, "score") == 0) scores = reinterpret_cast<std::uint64_t>(address);
  return true;
}

bool enqueue(void*, void* stream) {
  static const std::array<float, kMostRows> answer = [] {
    std::array<float, kMostRows> halves;
    halves.fill(0.5F);
    return halves;
  }();
  using Copy = int (*)(std::uint64_t, const void*, std::size_t, void*);
  const auto copy = reinterpret_cast<Copy>(dlsym(dlopen("libcuda.so.1", RTLD_NOW), "cuMemcpyHtoDAsync_v2"));
  return copy(scores, answer.data(), rows * sizeof(float), stream) == 0;
}

Made* context(void*, int) {
  static const Table table(2, {{14, address_of(+[](void*, int, void*) { return true; })},
                               {18, address_of(set_input_shape)},
                               {21, address_of(set_address)},
                               {34, address_of(enqueue)},
                               {46, address_of(+[](void*, void*, std::int64_t) {})}});
  return made<Context>(table);
}

Dims shape_of(void*, const char* tensor) { return *tensor == 'i' ? Dims{2, {-1, kColumns}} : Dims{1, {-1}}; }

Made* engine(void*, const void*, std::size_t) {
  static const Table table(
      2, {{3, address_of(context)},
          {6, address_of(+[](void*) { return 1; })},
          {13, address_of(shape_of)},
          {14, address_of(+[](void*, const char*) { return DataType::kFLOAT; })},
          {17, address_of(+[](void*, const char* tensor) {
             return *tensor == 'i' ? TensorIOMode::kINPUT : TensorIOMode::kOUTPUT;
           })},
          {24, address_of(+[](void*) { return 2; })},
          {25, address_of(+[](void*, int index) { return index == 0 ? "input" : "score"; })},
          {43, address_of(+[](void*, int) -> std::int64_t { return 64; })}});
  return made<Engine>(table);
}

}  // namespace

#define EXPORTED extern "C" __attribute__((visibility("default")))

EXPORTED std::int32_t getInferLibVersion() noexcept { return 110400; }

EXPORTED void* createInferRuntime_INTERNAL(void* /*logger*/, std::int32_t /*version*/) noexcept {
  static const Table table(2, {{1, address_of(engine)}});
  return made<Runtime>(table);
}

EXPORTED void* createInferBuilder_INTERNAL(void* /*logger*/, std::int32_t /*version*/) noexcept {
  static const Table table(2, {{3, address_of(config)}, {4, address_of(network)}, {9, address_of(plan)}});
  return made<Builder>(table);
}

EXPORTED void* createNvOnnxParser_INTERNAL(void* /*network*/, void* /*logger*/, int /*version*/) noexcept {
  static const Table table(
      0, {{0, address_of(+[](void*, const void*, std::size_t, const char*) { return true; })},
          {6, address_of(keep)},
          {7, address_of(keep)}});
  static Implementation parser{table.functions.data()};
  return &parser;
}
