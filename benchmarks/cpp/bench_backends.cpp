// Times backends at the C++ level beside ONNX Runtime's C API called directly, in turns.
//
//   bench_backends MODEL.onnx LIBONNXRUNTIME BATCH[,BATCH...] BUDGET_S
//
// BUDGET_S is for each batch size. Prints one JSON object per line: contender, batch, calls_per_sample,
// samples_us (each the mean of so many calls), rounds_us (the median sample of each round) and peaks_gflops
// (the core's multiply-add peak measured in each round); or contender, batch and left_out, the reason. Scores
// are checked against those of ONNX Runtime's C API. Left out: loading, Python, validation of the rows.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "backends/all.h"
#include "backends/onnxruntime/api.h"
#include "core/error.h"
#include "measure.h"
#include "roof/roof.h"

namespace datasentinel {
namespace {

/// The C API as a careful user would call it: tensors made once over fixed memory, then only Run.
class DirectCall {
 public:
  DirectCall(const std::string& library, const std::string& onnx, std::size_t input_dim,
             std::vector<float>& rows, std::vector<float>& scores)
      : api_(library), env_(api_), options_(api_), session_(api_), memory_(api_), input_(api_), score_(api_) {
    const char* what = "benchmark";
    api_.check(api_.CreateEnv(onnxruntime::kLoggingLevelFatal, what, env_.out()), what);
    api_.check(api_.CreateSessionOptions(options_.out()), what);
    api_.check(api_.SetIntraOpNumThreads(options_.get(), 1), what);
    api_.check(api_.SetInterOpNumThreads(options_.get(), 1), what);
    api_.check(api_.SetSessionGraphOptimizationLevel(options_.get(), onnxruntime::kGraphOptimizationAll),
               what);
    api_.check(
        api_.CreateSessionFromArray(env_.get(), onnx.data(), onnx.size(), options_.get(), session_.out()),
        what);
    api_.check(
        api_.CreateCpuMemoryInfo(onnxruntime::kAllocatorDevice, onnxruntime::kMemTypeDefault, memory_.out()),
        what);
    const std::array<std::int64_t, 2> shape{static_cast<std::int64_t>(scores.size()),
                                            static_cast<std::int64_t>(input_dim)};
    api_.check(
        api_.CreateTensorWithDataAsOrtValue(memory_.get(), rows.data(), rows.size() * sizeof(float),
                                            shape.data(), 2, onnxruntime::kElementTypeFloat, input_.out()),
        what);
    api_.check(
        api_.CreateTensorWithDataAsOrtValue(memory_.get(), scores.data(), scores.size() * sizeof(float),
                                            shape.data(), 1, onnxruntime::kElementTypeFloat, score_.out()),
        what);
  }

  void operator()() {
    const char* input_name = "input";
    const char* score_name = "score";
    const onnxruntime::OrtValue* input = input_.get();
    onnxruntime::OrtValue* score = score_.get();
    api_.check(api_.Run(session_.get(), nullptr, &input_name, &input, 1, &score_name, 1, &score), "running");
  }

 private:
  onnxruntime::Api api_;
  onnxruntime::Env env_;
  onnxruntime::SessionOptionsHandle options_;
  onnxruntime::OrtSessionHandle session_;
  onnxruntime::MemoryInfo memory_;
  onnxruntime::Value input_;
  onnxruntime::Value score_;
};

std::string json_array(const std::vector<double>& values) {
  std::string text = "[";
  for (const double value : values) {
    std::array<char, 32> number;
    std::snprintf(number.data(), number.size(), "%s%.5f", text.size() == 1 ? "" : ", ", value);
    text += number.data();
  }
  return text + "]";
}

void print_left_out(std::string_view contender, std::size_t batch, std::string reason) {
  for (char& character : reason) {
    if (character == '"' || character == '\\' || static_cast<unsigned char>(character) < ' ') character = ' ';
  }
  std::printf("{\"contender\": \"%s\", \"batch\": %zu, \"left_out\": \"%s\"}\n",
              std::string(contender).c_str(), batch, reason.c_str());
}

/// Scores near zero are compared on the scale of the others, as `auto` does.
bool agree(const std::vector<float>& scores, const std::vector<float>& expected) {
  const float largest = *std::max_element(expected.begin(), expected.end());
  for (std::size_t i = 0; i < scores.size(); ++i) {
    const float allowed = 1e-4F * (std::abs(expected[i]) + 0.01F * std::abs(largest));
    if (!(std::abs(scores[i] - expected[i]) <= allowed)) return false;
  }
  return true;
}

void bench_batch(const std::string& path, const std::string& onnx, const std::string& library,
                 std::size_t batch, double budget_s) {
  const Registry registry = make_registry({{"onnxruntime", {.path = library, .problem = {}}}});
  const Model model{.name = path, .onnx = std::as_bytes(std::span(onnx))};

  std::vector<std::unique_ptr<Session>> sessions;
  for (const auto& backend : registry.all()) {
    try {
      sessions.push_back(backend->load(model, {}));
    } catch (const Error& error) {
      print_left_out(backend->name(), batch, error.what());
    }
  }
  const std::size_t input_dim = sessions.at(0)->input_dim();
  std::mt19937 random(0);
  std::normal_distribution<float> normal;
  std::vector<float> rows(batch * input_dim);
  for (float& value : rows) value = normal(random);
  std::vector<float> expected(batch);
  std::vector<float> scores(batch);
  DirectCall direct(library, onnx, input_dim, rows, expected);
  direct();

  std::vector<bench::Contender> contenders{{.name = "onnxruntime-c-api", .call = [&] { direct(); }}};
  const ConstRows input{.data = rows.data(), .rows = batch, .columns = input_dim};
  for (const auto& session : sessions) {
    session->run(input, {.scores = scores.data()});
    if (!agree(scores, expected)) {
      print_left_out(session->backend(), batch, "wrong scores");
      continue;
    }
    contenders.push_back({.name = std::string(session->backend()), .call = [&session, input, &scores] {
                            session->run(input, {.scores = scores.data()});
                          }});
  }

  const std::string isa = roof::instruction_sets().front();
  bench::measure(contenders, budget_s, [&isa] { return roof::measure_gflops(isa, 1e-3); });
  for (const auto& contender : contenders) {
    std::printf(
        "{\"contender\": \"%s\", \"batch\": %zu, \"calls_per_sample\": %zu, \"samples_us\": %s, "
        "\"rounds_us\": %s, \"peaks_gflops\": %s}\n",
        contender.name.c_str(), batch, contender.calls_per_sample, json_array(contender.samples_us).c_str(),
        json_array(contender.rounds_us).c_str(), json_array(contender.peaks_gflops).c_str());
  }
}

}  // namespace
}  // namespace datasentinel

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "usage: bench_backends MODEL.onnx LIBONNXRUNTIME BATCH[,BATCH...] BUDGET_S\n");
    return 2;
  }
  std::ifstream file(argv[1], std::ios::binary);
  const std::string onnx{std::istreambuf_iterator<char>(file), {}};
  std::istringstream batches(argv[3]);
  try {
    for (std::string batch; std::getline(batches, batch, ',');) {
      datasentinel::bench_batch(argv[1], onnx, argv[2], std::stoul(batch), std::stod(argv[4]));
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
  return 0;
}
