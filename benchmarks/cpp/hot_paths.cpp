// hot_paths [FOLDER] - calls hot paths for Callgrind to count: it collects in `counted`, and dumps what it
// has behind it (benchmarks/instructions.py). Prints, in the order of the dumps, what each is about: calls
// times rows, a tab, and a name. With FOLDER, which holds small, default, forest and memory (.onnx), it
// scores with these models; without, it reads what rows come in, and loads a deep model. The compiler stands
// first.

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/scorer.h"
#include "fused_models.h"
#include "fuzz/wire.h"
#include "grpc_messages.h"
#include "tables/csv_parser.h"
#include "wire/grpc/evaluate.h"
#include "wire/grpc/model_infer.h"
#include "wire/lines/line_session.h"

/// The name that Callgrind is told.
extern "C" [[gnu::noinline]] void counted(const std::function<void()>& call, int calls) {
  for (int i = 0; i < calls; ++i) call();
}

namespace {

using namespace datasentinel;

constexpr std::size_t kColumns = 10;
constexpr std::size_t kRows = 64;

void count(const std::string& name, int calls, std::size_t rows, const std::function<void()>& call) {
  call();  // What is made at the first call stays.
  call();
  void (*volatile function)(const std::function<void()>&, int) = counted;  // No compiler makes a copy of it.
  function(call, calls);
  std::printf("%zu\t%s\n", static_cast<std::size_t>(calls) * rows, name.c_str());
}

std::string read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::unique_ptr<Session> load(const std::string& onnx) {
  return make_fused_backend()->load({.name = "model.onnx", .onnx = std::as_bytes(std::span(onnx))}, {});
}

void count_scoring(const std::string& folder, const std::string& model, std::size_t rows) {
  Scorer scorer(load(read(folder + "/" + model + ".onnx")), 1.0);
  const std::vector<float> values = testing::random_floats(rows * scorer.input_dim(), 1, 3);
  std::vector<float> scores(rows);
  std::vector<float> states(rows * scorer.state_dim(), 0.0F);
  const ConstRows input{.data = values.data(), .rows = rows, .columns = scorer.input_dim()};
  count("fused, " + model + ", rows in a call: " + std::to_string(rows), 8, rows, [&] {
    if (scorer.state_dim() == 0) {
      scorer.run(input, {.scores = scores.data()});
    } else {
      scorer.step(input, states.data(), {.scores = scores.data()});
    }
  });
}

void count_fused(const std::string& folder) {
  for (const char* model : {"small", "default", "forest", "memory"}) {
    for (const std::size_t rows : {std::size_t{1}, kRows}) count_scoring(folder, model, rows);
  }
}

/// Of a chain of layers: per layer, so that more than linear time shows.
void count_loading() {
  constexpr std::size_t kLayers = 2000;
  testing::ModelBuilder model;
  model.input(testing::value_info("input", {-1, 4}))
      .output(testing::value_info("output", {-1, 4}))
      .weight(testing::float_tensor("w", {4, 4}, testing::random_floats(16, 1)))
      .weight(testing::float_tensor("b", {4}, testing::random_floats(4, 2)));
  for (std::size_t i = 0; i < kLayers; ++i) {
    model.add(testing::node("Gemm", {i == 0 ? "input" : "x" + std::to_string(i), "w", "b"},
                            {i + 1 == kLayers ? "output" : "x" + std::to_string(i + 1)}));
  }
  const std::string onnx = model.finish().text();
  count("fused, loading a layer", 1, kLayers, [&] { static_cast<void>(load(onnx)); });
}

/// kRows rows of decimal numbers.
std::string rows_of_text(char between) {
  const std::vector<float> values = testing::random_floats(kRows * kColumns, 1);
  std::string text;
  for (std::size_t i = 0; i < values.size(); ++i) {
    char number[16];
    std::snprintf(number, sizeof number, "%.6g", static_cast<double>(values[i]));
    text.append(number).push_back((i + 1) % kColumns == 0 ? '\n' : between);
  }
  return text;
}

void count_readers() {
  const std::string csv = rows_of_text(',');
  const CsvParser parser({}, kColumns, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, {});
  count("CSV", 8, kRows, [&] { static_cast<void>(parser.parse<float>(csv)); });

  auto models = std::make_shared<ModelTable>();
  models->put("sum", "1", std::make_shared<Scorer>(std::make_shared<SumSession>(kColumns), 10.0));
  const auto service =
      std::make_shared<InferenceService>(models, ServiceLimits{.max_inline_us = 1e12}, QueueLimits{}, [] {});
  LineSession session(service, fuzz::make_counts(), LineLimits{.turn = std::chrono::hours(1)});
  const std::string lines = rows_of_text(' ');
  std::string replies;
  count("lines over TCP", 8, kRows, [&] {
    replies.clear();
    session.feed(lines, replies);
  });

  InferenceRequest request;
  const std::vector<float> row = testing::random_floats(kColumns, 1);
  const std::string evaluate = evaluate_message(row);
  count("gRPC, Evaluate", 8, 1, [&] {
    request.recycle();
    static_cast<void>(decode_evaluate(evaluate, *models, request));
  });
  const std::string batch = batch_message(1, kRows, testing::random_floats(kRows * kColumns, 1));
  count("gRPC, EvaluateBatch", 8, kRows, [&] {
    request.recycle();
    static_cast<void>(decode_evaluate_batch(batch, *models, {}, request));
  });
  const std::string infer = InferMessage{.model = "sum", .shape = {1, kColumns}, .values = row}.encode();
  count("gRPC, ModelInfer", 8, 1, [&] {
    request.recycle();
    static_cast<void>(decode_model_infer(infer, *models, {}, request));
  });
}

}  // namespace

int main(int argc, char** argv) {
  std::printf("%s\n", DATASENTINEL_COMPILER);
  try {
    if (argc == 2) {
      count_fused(argv[1]);
    } else {
      count_loading();
      count_readers();
    }
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return EXIT_FAILURE;
  }
  return EXIT_SUCCESS;
}
