// Times backends at the C++ level beside ONNX Runtime's C API called directly, in turns.
//
//   bench_backends MODEL.onnx LIBONNXRUNTIME BATCH[,BATCH...] [ROUNDS [TURN_MS]]
//
// Prints one JSON object per line: backend, batch, p50_us, p10_us, p90_us over rounds, and
// ratio_to_c_api, the median over rounds of this backend's time divided by the C API's in the same round.
// Left out: loading, Python, validation of the rows.

#include <array>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <span>
#include <sstream>
#include <string>
#include <vector>

#include "backends/all.h"
#include "backends/onnxruntime/api.h"
#include "core/error.h"
#include "measure.h"

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

void bench_batch(const std::string& path, const std::string& onnx, const std::string& library,
                 std::size_t batch, int rounds, double turn_s) {
  const Registry registry = make_registry({{"onnxruntime", {.path = library, .problem = {}}}});
  const Model model{.name = path, .onnx = std::as_bytes(std::span(onnx))};

  std::vector<std::unique_ptr<Session>> sessions;
  for (const auto& backend : registry.all()) {
    try {
      sessions.push_back(backend->load(model, {}));
    } catch (const Error& error) {
      std::fprintf(stderr, "%s: left out: %s\n", std::string(backend->name()).c_str(), error.what());
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

  std::vector<bench::Contender> contenders{{.name = "onnxruntime C API", .call = [&] { direct(); }}};
  const ConstRows input{.data = rows.data(), .rows = batch, .columns = input_dim};
  for (const auto& session : sessions) {
    session->run(input, {.scores = scores.data()});
    for (std::size_t i = 0; i < batch; ++i) {
      if (std::abs(scores[i] - expected[i]) > 1e-4F * std::abs(expected[i])) {
        std::fprintf(stderr, "%s: wrong score at row %zu\n", std::string(session->backend()).c_str(), i);
        std::exit(1);
      }
    }
    contenders.push_back({.name = std::string(session->backend()), .call = [&session, input, &scores] {
                            session->run(input, {.scores = scores.data()});
                          }});
  }

  bench::measure(contenders, rounds, turn_s);
  for (const auto& contender : contenders) {
    std::vector<double> ratios;
    for (std::size_t round = 0; round < contender.samples_us.size(); ++round) {
      ratios.push_back(contender.samples_us[round] / contenders[0].samples_us[round]);
    }
    std::printf(
        "{\"backend\": \"%s\", \"batch\": %zu, \"p50_us\": %.4f, \"p10_us\": %.4f, \"p90_us\": %.4f, "
        "\"ratio_to_c_api\": %.4f}\n",
        contender.name.c_str(), batch, bench::quantile(contender.samples_us, 0.5),
        bench::quantile(contender.samples_us, 0.1), bench::quantile(contender.samples_us, 0.9),
        bench::quantile(ratios, 0.5));
  }
}

}  // namespace
}  // namespace datasentinel

int main(int argc, char** argv) {
  if (argc < 4) {
    std::fprintf(stderr,
                 "usage: bench_backends MODEL.onnx LIBONNXRUNTIME BATCH[,BATCH...] [ROUNDS [TURN_MS]]\n");
    return 2;
  }
  std::ifstream file(argv[1], std::ios::binary);
  const std::string onnx{std::istreambuf_iterator<char>(file), {}};
  const int rounds = argc > 4 ? std::atoi(argv[4]) : 21;
  const double turn_s = 1e-3 * (argc > 5 ? std::atof(argv[5]) : 10.0);
  std::istringstream batches(argv[3]);
  try {
    for (std::string batch; std::getline(batches, batch, ',');) {
      datasentinel::bench_batch(argv[1], onnx, argv[2], std::stoul(batch), rounds, turn_s);
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
  return 0;
}
