// Stands in for TensorRT 11 and its ONNX parser: an engine that gives every row the score 0.5, reconstructs
// it as zeros and explains it by 0.25 each, by copies on the stream that it is told. NVINFER_OUTPUTS lists
// what it has of these, NVINFER_INPUT, NVINFER_ROWS and NVINFER_TYPE say what its input is. Functions fail on
// demand, by the name that TensorRT gives them. What a virtual function does that is not listed here ends the
// process.

#include <dlfcn.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <initializer_list>
#include <map>
#include <mutex>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "backends/tensorrt/api.h"
#include "faults.h"

namespace {

using cuda_on_cpu::number;
using cuda_on_cpu::setting;
using namespace datasentinel::tensorrt::abi;

constexpr int kColumns = 33;
constexpr int kMostValues = 1 << 21;

std::mutex mutex;
cuda_on_cpu::Faults faults("");
ILogger* logger = nullptr;
std::string configured;  ///< What the last builder was told, which becomes the engine's bytes.

/// Whether this call of `function` was told to fail.
bool fails(const char* function) {
  const std::lock_guard lock(mutex);
  if (faults.next(function) == 0) return false;
  logger->log(Severity::kERROR, function);
  return true;
}

void unused() { cuda_on_cpu::die("nvinfer: a function that is not simulated"); }

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

/// What a factory returns is one of these, whose `implementation` starts with its table, too.
struct Made {
  const void* table;
  void* implementation;
};

Made* made(void* implementation) {
  static const Table own(2, {});
  static std::deque<Made> all;
  const std::lock_guard lock(mutex);
  return &all.emplace_back(Made{own.functions.data(), implementation});
}

/// An object without a state; null where `function`, which makes it, fails.
template <typename Tag>
Made* made(const char* function, const Table& table) {
  static const void* implementation = table.functions.data();
  return fails(function) ? nullptr : made(&implementation);
}

struct Memory {
  const void* table;
  std::string bytes;
};

Made* memory(const std::string& bytes) {
  static const Table table(
      2, {{0, address_of(+[](Memory* self) -> const void* { return self->bytes.data(); })},
          {1, address_of(+[](Memory* self) -> std::size_t { return self->bytes.size(); })}});
  static std::deque<Memory> all;
  return made(&all.emplace_back(Memory{table.functions.data(), bytes}));
}

struct Network;
struct Tensor;
struct Config;
struct Profile;
struct TimingCache;
struct Builder;
struct Engine;
struct Runtime;

// ------------------------------------------------------------------------------------------------- Building

Made* input(void*, std::uint32_t) {
  static const Table table(
      2, {{1, address_of(+[](void*) { return "input"; })},
          {3, address_of(+[](void*) { return Dims{2, {number("NVINFER_ROWS", -1), kColumns}}; })}});
  return made<Tensor>("getInput", table);
}

Made* network(void*, std::uint32_t) {
  static const Table table(
      2, {{12, address_of(+[](void*) { return fails("getNbInputs") ? 2 : 1; })}, {13, address_of(input)}});
  return made<Network>("createNetworkV2", table);
}

Made* profile(void*) {
  static const Table table(2, {{0, address_of(+[](void*, const char*, OptProfileSelector, const Dims&) {
                                  return !fails("setDimensions");
                                })}});
  return made<Profile>("createOptimizationProfile", table);
}

Made* timing_cache(void*, const void*, std::size_t) {
  static const Table table(
      2, {{0, address_of(+[](void*) -> Made* { return fails("serialize") ? nullptr : memory("timings"); })}});
  return made<TimingCache>("createTimingCache", table);
}

Made* config(void*) {
  static const Table table(
      2, {{6, address_of(+[](void*, int flag) { configured += " without " + std::to_string(flag); })},
          {7, address_of(+[](void*, int flag) { configured += " with " + std::to_string(flag); })},
          {21, address_of(+[](void*, void*) { return fails("addOptimizationProfile") ? -1 : 0; })},
          {27, address_of(timing_cache)},
          {28, address_of(+[](void*, void*, bool) { return true; })},
          {30, address_of(+[](void*, int, std::size_t bytes) {
             configured += " workspace " + std::to_string(bytes);
           })},
          {34, address_of(+[](void*, int level) { configured += " level " + std::to_string(level); })},
          {36, address_of(+[](void*, int level) { configured += " hardware " + std::to_string(level); })},
          {41, address_of(+[](void*, int) { return true; })}});
  configured = "engine";
  return made<Config>("createBuilderConfig", table);
}

Made* plan(void*, void*, void*) { return fails("buildSerializedNetwork") ? nullptr : memory(configured); }

// -------------------------------------------------------------------------------------------------- Running

struct Context {
  const void* table;
  std::size_t rows = 0;
  std::map<std::string, std::uint64_t> addresses;
};

bool set_input_shape(Context* self, const char*, const Dims& shape) {
  self->rows = static_cast<std::size_t>(shape.d[0]);
  return !fails("setInputShape");
}

bool set_address(Context* self, const char* tensor, void* address) {
  self->addresses[tensor] = reinterpret_cast<std::uint64_t>(address);
  return !fails("setTensorAddress");
}

bool enqueue(Context* self, void* stream) {
  static const std::map<std::string, std::vector<float>> answers = {
      {"score", std::vector(kMostValues, 0.5F)},
      {"output", std::vector(kMostValues, 0.0F)},
      {"contributions", std::vector(kMostValues, 0.25F)},
  };
  if (fails("enqueueV3")) return false;
  using Copy = int (*)(std::uint64_t, const void*, std::size_t, void*);
  const auto copy = reinterpret_cast<Copy>(dlsym(dlopen("libcuda.so.1", RTLD_NOW), "cuMemcpyHtoDAsync_v2"));
  for (const auto& [tensor, answer] : answers) {
    const auto found = self->addresses.find(tensor);
    const std::size_t count = self->rows * (tensor == "score" ? 1 : kColumns);
    if (found != self->addresses.end() &&
        copy(found->second, answer.data(), count * sizeof(float), stream) != 0) {
      return false;
    }
  }
  return true;
}

Made* context(void*, int) {
  static const Table table(
      2, {{14, address_of(+[](void*, int, void*) { return !fails("setOptimizationProfileAsync"); })},
          {18, address_of(set_input_shape)},
          {21, address_of(set_address)},
          {34, address_of(enqueue)},
          {46, address_of(+[](void*, void*, std::int64_t) {})}});
  static std::deque<Context> all;
  if (fails("createExecutionContext")) return nullptr;
  return made(&all.emplace_back(Context{.table = table.functions.data(), .addresses = {}}));
}

/// The names of the input and the outputs; those of earlier calls stay valid.
const std::vector<std::string>& tensors() {
  static std::map<std::string, std::vector<std::string>> all;
  const std::string text = setting("NVINFER_INPUT", "input") + "," + setting("NVINFER_OUTPUTS", "score");
  std::vector<std::string>& names = all[text];
  if (names.empty()) {
    std::istringstream list(text);
    for (std::string name; std::getline(list, name, ',');) names.push_back(name);
  }
  return names;
}

Dims shape_of(void*, const char* tensor) {
  const long rows = number("NVINFER_ROWS", -1);
  return std::strcmp(tensor, "score") == 0 ? Dims{1, {rows}} : Dims{2, {rows, kColumns}};
}

Made* engine(void*, const void*, std::size_t) {
  static const Table table(
      2,
      {{3, address_of(context)},
       {6, address_of(+[](void*) { return number("NVINFER_ROWS", -1) == -1 ? 2 : 1; })},
       {13, address_of(shape_of)},
       {14, address_of(+[](void*, const char*) {
          return static_cast<DataType>(number("NVINFER_TYPE", static_cast<int>(DataType::kFLOAT)));
        })},
       {17, address_of(+[](void*, const char* tensor) {
          return tensors().front() == tensor ? TensorIOMode::kINPUT : TensorIOMode::kOUTPUT;
        })},
       {24, address_of(+[](void*) { return static_cast<int>(tensors().size()); })},
       {25, address_of(+[](void*, int index) { return tensors()[static_cast<std::size_t>(index)].c_str(); })},
       {43, address_of(+[](void*, int) -> std::int64_t { return 64; })}});
  return made<Engine>("deserializeCudaEngine", table);
}

// -------------------------------------------------------------------------------------------------- Parsing

/// The first error names a node and its operator, the second a node, the third none.
const void* parser_error(void*, int index) {
  struct Error {
    const void* table;
    int index;
  };
  static const Table table(
      0, {{1, address_of(+[](Error*) { return "no such thing"; })},
          {5, address_of(+[](Error* self) { return self->index == 2 ? -1 : self->index; })},
          {7, address_of(+[](Error* self) -> const char* { return self->index == 0 ? "Loop" : nullptr; })}});
  static const std::array<Error, 3> errors = {
      {{table.functions.data(), 0}, {table.functions.data(), 1}, {table.functions.data(), 2}}};
  return &errors[static_cast<std::size_t>(index)];
}

}  // namespace

#define EXPORTED extern "C" __attribute__((visibility("default")))

EXPORTED std::int32_t getInferLibVersion() noexcept { return 110400; }

EXPORTED void* createInferRuntime_INTERNAL(void* log, std::int32_t /*version*/) noexcept {
  static const Table table(
      2, {{1, address_of(engine)}, {18, address_of(+[](void*, bool) { configured += " with host code"; })}});
  logger = static_cast<ILogger*>(log);
  return made<Runtime>("createInferRuntime", table);
}

EXPORTED void* createInferBuilder_INTERNAL(void* log, std::int32_t /*version*/) noexcept {
  static const Table table(
      2,
      {{3, address_of(config)}, {4, address_of(network)}, {5, address_of(profile)}, {9, address_of(plan)}});
  logger = static_cast<ILogger*>(log);
  return made<Builder>("createInferBuilder", table);
}

EXPORTED void* createNvOnnxParser_INTERNAL(void* /*network*/, void* /*logger*/, int /*version*/) noexcept {
  static const Table table(
      0, {{0, address_of(+[](void*, const void*, std::size_t, const char*) { return !fails("parse"); })},
          {3, address_of(+[](void*) { return 3; })},
          {4, address_of(parser_error)},
          {6, address_of(keep)},
          {7, address_of(keep)}});
  static const void* parser = table.functions.data();
  return fails("createNvOnnxParser") ? nullptr : &parser;
}

EXPORTED void nvinfer_fail(const char* plan) {
  const std::lock_guard lock(mutex);
  faults.set(plan);
}
