#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "backends/fused/backend.h"
#include "backends/fused/isa.h"
#include "check.h"
#include "fused_models.h"
#include "onnx_builder.h"

namespace datasentinel {
namespace {

using namespace testing;

/// An autoencoder on standardised inputs, and what it computes in float64.
struct Autoencoder {
  std::vector<std::size_t> widths;
  std::vector<float> mean, deviation;
  std::vector<std::vector<float>> weights, biases;

  explicit Autoencoder(std::vector<std::size_t> dims, float offset = 0) : widths(std::move(dims)) {
    mean = random_floats(widths[0], 1, 1);
    for (float& value : mean) value += offset;
    deviation = random_floats(widths[0], 2, 0.1F);
    for (float& value : deviation) value = std::abs(value) + 0.5F;
    for (std::size_t i = 0; i + 1 < widths.size(); ++i) {
      const auto seed = static_cast<unsigned>(10 + i);
      weights.push_back(
          random_floats(widths[i] * widths[i + 1], seed, 1 / std::sqrt(static_cast<float>(widths[i]))));
      biases.push_back(random_floats(widths[i + 1], seed + 100, 0.1F));
    }
  }

  [[nodiscard]] Message to_onnx(bool standardised_score, bool explains = false) const {
    const auto dims = [](std::initializer_list<std::size_t> sizes) {
      return std::vector<std::int64_t>(sizes.begin(), sizes.end());
    };
    const auto width = static_cast<std::int64_t>(widths[0]);
    ModelBuilder model;
    model.input(value_info("input", {-1, width}));
    model.output(value_info("score", {-1})).output(value_info("output", {-1, width}));
    model.weight(float_tensor("mean", dims({widths[0]}), mean));
    model.weight(float_tensor("deviation", dims({widths[0]}), deviation));
    model.add(node("Sub", {"input", "mean"}, {"centred"})).add(node("Div", {"centred", "deviation"}, {"h0"}));
    for (std::size_t i = 0; i < weights.size(); ++i) {
      const std::string n = std::to_string(i);
      const std::string next = std::to_string(i + 1);
      const bool last = i + 1 == weights.size();
      model.weight(float_tensor("w" + n, dims({widths[i + 1], widths[i]}), weights[i]));
      model.weight(float_tensor("b" + n, dims({widths[i + 1]}), biases[i]));
      model.add(node("Gemm", {"h" + n, "w" + n, "b" + n}, {last ? "decoded" : "z" + n},
                     {int_attribute("transB", 1)}));
      if (!last) model.add(node("Relu", {"z" + n}, {"h" + next}));
    }
    model.add(node("Mul", {"decoded", "deviation"}, {"scaled"}))
        .add(node("Add", {"scaled", "mean"}, {"output"}));
    const std::vector<std::string> sides = standardised_score ? std::vector<std::string>{"h0", "decoded"}
                                                              : std::vector<std::string>{"input", "output"};
    model.weight(int_tensor("axes", {1}, {1}));
    model.add(node("Sub", sides, {"residual"})).add(node("Mul", {"residual", "residual"}, {"squares"}));
    model.add(node("ReduceMean", {"squares", "axes"}, {"score"}, {int_attribute("keepdims", 0)}));
    if (explains) {
      model.output(value_info("contributions", {-1, width}));
      model.weight(float_tensor("share", {}, {1.0F / static_cast<float>(width)}));
      model.add(node("Mul", {"squares", "share"}, {"contributions"}));
    }
    return model.finish();
  }

  struct Answer {
    double score = 0;
    std::vector<double> output;
    std::vector<double> contributions;
  };

  [[nodiscard]] Answer exact(const float* row, bool standardised_score) const {
    std::vector<double> z(widths[0]);
    for (std::size_t j = 0; j < z.size(); ++j) z[j] = (double{row[j]} - mean[j]) / deviation[j];
    std::vector<double> h = z;
    for (std::size_t i = 0; i < weights.size(); ++i) {
      std::vector<double> next(widths[i + 1]);
      for (std::size_t n = 0; n < next.size(); ++n) {
        next[n] = biases[i][n];
        for (std::size_t k = 0; k < h.size(); ++k) next[n] += h[k] * weights[i][n * h.size() + k];
        if (i + 1 < weights.size()) next[n] = std::max(next[n], 0.0);
      }
      h = std::move(next);
    }
    Answer answer;
    for (std::size_t j = 0; j < z.size(); ++j) {
      const double residual = (z[j] - h[j]) * (standardised_score ? 1.0 : deviation[j]);
      answer.contributions.push_back(residual * residual / static_cast<double>(z.size()));
      answer.score += answer.contributions.back();
      answer.output.push_back(h[j] * deviation[j] + mean[j]);
    }
    return answer;
  }
};

void matches_float64_at_every_batch_size() {
  const std::vector<std::vector<std::size_t>> shapes = {
      {8, 6, 3, 6, 8}, {1, 1, 1}, {5, 17, 5}, {64, 128, 64, 16, 64, 128, 64}, {33, 300, 7, 33}, {13, 13}};
  for (const auto& shape : shapes) {
    for (const bool standardised : {true, false}) {
      const Autoencoder network(shape);
      const auto session = load(network.to_onnx(standardised));
      CHECK(session->input_dim() == shape[0]);
      for (const std::size_t rows : {1, 2, 3, 4, 5, 7, 8, 9, 12, 13, 15, 16, 17, 31, 32, 33, 100, 257}) {
        const auto x = random_floats(rows * shape[0], 5);
        std::vector<float> scores(rows);
        std::vector<float> output(rows * shape[0]);
        session->run({.data = x.data(), .rows = rows, .columns = shape[0]},
                     {.scores = scores.data(), .reconstructions = output.data()});
        CHECK(scores_of(*session, x) == scores);
        for (std::size_t row = 0; row < rows; ++row) {
          const auto exact = network.exact(&x[row * shape[0]], standardised);
          CHECK(close(scores[row], exact.score));
          for (std::size_t j = 0; j < shape[0]; ++j) {
            CHECK(std::abs(output[row * shape[0] + j] - exact.output[j]) < 1e-4);
          }
        }
      }
    }
  }
}

/// Asked for alone or with the others, and without a trace in a score-only call.
void explains_scores_feature_by_feature() {
  for (const bool standardised : {true, false}) {
    const Autoencoder network({19, 30, 5, 30, 19});
    const auto silent = load(network.to_onnx(standardised));
    const auto session = load(network.to_onnx(standardised, true));
    for (const std::size_t rows : {1, 2, 5, 13, 40, 257}) {
      const auto x = random_floats(rows * 19, 5);
      std::vector<float> scores(rows);
      std::vector<float> output(rows * 19);
      std::vector<float> contributions(rows * 19);
      std::vector<float> alone(rows * 19);
      const ConstRows input{.data = x.data(), .rows = rows, .columns = 19};
      session->run(
          input,
          {.scores = scores.data(), .reconstructions = output.data(), .contributions = contributions.data()});
      Outputs outputs;
      outputs.contributions = alone.data();
      session->run(input, outputs);
      CHECK(alone == contributions);
      CHECK(scores_of(*session, x) == scores);
      const auto expected = scores_of(*silent, x);
      for (std::size_t row = 0; row < rows; ++row) {
        const auto exact = network.exact(&x[row * 19], standardised);
        double sum = 0;
        for (std::size_t j = 0; j < 19; ++j) {
          const float contribution = contributions[row * 19 + j];
          CHECK(contribution >= 0);
          CHECK(std::abs(contribution - exact.contributions[j]) < 1e-5 * exact.score);
          CHECK(std::abs(output[row * 19 + j] - exact.output[j]) < 1e-4);
          sum += contribution;
        }
        CHECK(close(sum, scores[row]));
        // Another frame may cut the rows into other blocks, which round differently.
        CHECK(close(scores[row], expected[row], 1e-6));
      }
    }
  }
}

/// Data far from zero: the shift is subtracted before anything is rounded to fewer digits than it has.
void keeps_precision_at_large_offsets() {
  for (const bool standardised : {true, false}) {
    const Autoencoder network({24, 40, 24}, 1e6F);
    const auto session = load(network.to_onnx(standardised));
    for (const std::size_t rows : {1, 40}) {
      auto x = random_floats(rows * 24, 3);
      for (float& value : x) value += 1e6F;
      const auto scores = scores_of(*session, x);
      for (std::size_t row = 0; row < rows; ++row) {
        CHECK(close(scores[row], network.exact(&x[row * 24], standardised).score));
      }
    }
  }
}

void overflows_to_no_finite_score() {
  const auto session = load(Autoencoder({8, 6, 3, 6, 8}).to_onnx(true));
  for (const std::size_t rows : {1, 20}) {
    const auto scores = scores_of(*session, std::vector<float>(rows * 8, 1e30F));
    for (const float score : scores) CHECK(!std::isfinite(score));
    for (const float score : scores_of(*session, std::vector<float>(rows * 8, 1e-40F)))
      CHECK(std::isfinite(score));
  }
}

/// A prototype's file: no score, and a batch of 1 written into the graph.
void scores_a_graph_without_score() {
  const auto w = random_floats(12, 1);
  const auto session = load(ModelBuilder()
                                .input(value_info("input", {1, 4}))
                                .output(value_info("output", {1, 4}))
                                .weight(float_tensor("down", {4, 3}, w))
                                .weight(float_tensor("up", {3, 4}, w))
                                .weight(float_tensor("bias", {4}, {1, 2, 3, 4}))
                                .add(node("MatMul", {"input", "down"}, {"a"}))
                                .add(node("Tanh", {"a"}, {"b"}))
                                .add(node("MatMul", {"b", "up"}, {"c"}))
                                .add(node("Add", {"bias", "c"}, {"output"}))
                                .finish());
  for (const std::size_t rows : {1, 3, 50}) {
    const auto x = random_floats(rows * 4, 2);
    const auto scores = scores_of(*session, x);
    std::vector<float> contributions(rows * 4);
    Outputs outputs;
    outputs.contributions = contributions.data();
    session->run({.data = x.data(), .rows = rows, .columns = 4}, outputs);
    for (std::size_t row = 0; row < rows; ++row) {
      double score = 0;
      double hidden[3] = {};
      for (std::size_t n = 0; n < 3; ++n) {
        for (std::size_t k = 0; k < 4; ++k) hidden[n] += double{x[row * 4 + k]} * w[k * 3 + n];
        hidden[n] = std::tanh(hidden[n]);
      }
      for (std::size_t n = 0; n < 4; ++n) {
        double output = static_cast<double>(n) + 1;
        for (std::size_t k = 0; k < 3; ++k) output += hidden[k] * w[k * 4 + n];
        const double contribution = (x[row * 4 + n] - output) * (x[row * 4 + n] - output) / 4;
        CHECK(std::abs(contributions[row * 4 + n] - contribution) < 1e-5 * (1 + contribution));
        score += contribution;
      }
      CHECK(close(scores[row], score));
    }
  }
}

void refuses_what_it_cannot_run() {
  constexpr auto kUnsupported = ErrorCode::unsupported_model;
  const auto with = [](const Message& last) {
    return ModelBuilder()
        .input(value_info("input", {-1, 4}))
        .output(value_info("output", {-1, 4}))
        .weight(float_tensor("w", {4, 4}, std::vector<float>(16, 1)))
        .weight(float_tensor("narrow", {3, 4}, std::vector<float>(12, 1)))
        .weight(float_tensor("three", {3}, {1, 2, 3}))
        .weight(float_tensor("zero", {1}, {0}))
        .weight(float_tensor("huge", {1}, {3e38F}))
        .add(node("Mul", {"input", "huge"}, {"large"}))
        .add(last)
        .finish();
  };
  CHECK_THROWS_WITH(kUnsupported, "model.onnx: the fused backend cannot run Softmax \"soft\"",
                    load(with(node("Softmax", {"input"}, {"output"}, {}, "soft"))));
  CHECK_THROWS_WITH(kUnsupported, "Relu that computes \"output\"",
                    load(with(node("Relu", {"w"}, {"output"}))));
  CHECK_THROWS_WITH(kUnsupported, "transA",
                    load(with(node("Gemm", {"input", "w"}, {"output"}, {int_attribute("transA", 1)}))));
  CHECK_THROWS_WITH(kUnsupported, "one per column (4)",
                    load(with(node("Add", {"input", "three"}, {"output"}))));
  CHECK_THROWS_WITH(kUnsupported, "divides by zero", load(with(node("Div", {"input", "zero"}, {"output"}))));
  CHECK_THROWS_WITH(kUnsupported, "range of float32", load(with(node("Mul", {"large", "huge"}, {"output"}))));
  CHECK_THROWS_WITH(ErrorCode::invalid_model, "weights for 3 columns meet 4",
                    load(with(node("MatMul", {"input", "narrow"}, {"output"}))));
  CHECK_THROWS_WITH(ErrorCode::invalid_model, "\"output\" is read before",
                    load(with(node("Relu", {"output"}, {"output"}))));
  CHECK_THROWS_WITH(kUnsupported, "exactly one input",
                    load(ModelBuilder()
                             .input(value_info("input", {-1, 4}))
                             .input(value_info("more", {-1, 4}))
                             .output(value_info("input", {-1, 4}))
                             .finish()));
  CHECK_THROWS_WITH(kUnsupported, "neither",
                    load(ModelBuilder().input(value_info("input", {-1, 4})).finish()));
  CHECK_THROWS_WITH(kUnsupported, "[batch, D]",
                    load(ModelBuilder()
                             .input(value_info("input", {-1, -1}))
                             .output(value_info("output", {-1, -1}))
                             .add(node("Relu", {"input"}, {"output"}))
                             .finish()));
  const Message good = Autoencoder({4, 2, 4}).to_onnx(true);
  CHECK_THROWS_WITH(ErrorCode::unsupported_model, "bfloat16",
                    load(good, {.num_threads = 1, .precision = "bfloat16"}));
  CHECK_THROWS_WITH(ErrorCode::invalid_argument, "num_threads", load(good, {.num_threads = 0}));
  setenv("DATASENTINEL_ISA", "mmx", 1);
  CHECK_THROWS_WITH(ErrorCode::invalid_argument, "portable", load(good));
  for (const auto& set : fused::instruction_sets()) {
    if (set.supported) continue;
    setenv("DATASENTINEL_ISA", set.name.c_str(), 1);
    CHECK_THROWS_WITH(ErrorCode::unavailable, set.name, load(good));
    CHECK(make_fused_backend()->status().availability == Availability::no_device);
  }
  unsetenv("DATASENTINEL_ISA");
}

void refuses_what_the_graph_does_not_compute() {
  const auto session =
      load(ModelBuilder()
               .input(value_info("input", {-1, 3}))
               .output(value_info("score", {-1}))
               .weight(int_tensor("axes", {1}, {1}))
               .add(node("ReduceMax", {"input", "axes"}, {"score"}, {int_attribute("keepdims", 0)}))
               .finish());
  const std::vector<float> x = {1, 3, 2};
  std::vector<float> output(3);
  CHECK(scores_of(*session, x).at(0) == 3);
  const ConstRows row{.data = x.data(), .rows = 1, .columns = 3};
  Outputs outputs;
  outputs.reconstructions = output.data();
  CHECK_THROWS_WITH(ErrorCode::unsupported_model, "no output 'output'", (session->run(row, outputs), 0));
  outputs = {};
  outputs.contributions = output.data();
  CHECK_THROWS_WITH(ErrorCode::unsupported_model, "no output 'contributions'",
                    (session->run(row, outputs), 0));
}

/// Averages of 20 columns between a column before and two after, which stay as they are; score: their sum.
Message averages() {
  return ModelBuilder()
      .input(value_info("input", {-1, 20}))
      .input(value_info("state", {-1, 23}))
      .output(value_info("score", {-1, 1}))
      .output(value_info("state_next", {-1, 23}))
      .weight(int_tensor("before", {3}, {1, 20, 2}))
      .weight(int_tensor("axis", {1}, {1}))
      .weight(float_tensor("half", {}, {0.5F}))
      .add(node("Split", {"state", "before"}, {"first", "old", "last"}, {int_attribute("axis", 1)}))
      .add(node("Mul", {"old", "half"}, {"kept"}))
      .add(node("Add", {"kept", "input"}, {"new"}))
      .add(node("Concat", {"first", "new", "last"}, {"state_next"}, {int_attribute("axis", 1)}))
      .add(node("ReduceSum", {"new", "axis"}, {"score"}))
      .finish();
}

void keeps_the_state_of_streams() {
  const auto session = load(averages());
  CHECK(session->state_dim() == 23);
  for (const std::size_t streams : {1, 3, 16, 33, 100}) {
    std::vector<float> states = random_floats(streams * 23, 1);
    std::vector<float> expected = states;
    for (unsigned turn = 0; turn < 50; ++turn) {
      const auto x = random_floats(streams * 20, turn + 2);
      std::vector<float> scores(streams);
      session->step({.data = x.data(), .rows = streams, .columns = 20},
                    {.before = states.data(), .after = states.data()}, {.scores = scores.data()});
      for (std::size_t i = 0; i < streams; ++i) {
        double sum = 0;
        for (std::size_t c = 0; c < 20; ++c) {
          float& value = expected[i * 23 + 1 + c];
          value = 0.5F * value + x[i * 20 + c];
          sum += value;
        }
        CHECK(std::abs(scores[i] - sum) < 1e-4);
      }
      for (std::size_t i = 0; i < states.size(); ++i) CHECK(std::abs(states[i] - expected[i]) < 1e-5);
    }
  }
  // Without a state every row is the first of its stream.
  const auto x = random_floats(40 * 20, 3);
  const auto scores = scores_of(*session, x);
  double sum = 0;
  for (std::size_t c = 0; c < 20; ++c) sum += x[39 * 20 + c];
  CHECK(std::abs(scores[39] - sum) < 1e-4);
}

void many_threads_share_a_session() {
  const Autoencoder network({32, 48, 8, 48, 32});
  for (const int num_threads : {1, 3}) {
    const auto session = load(network.to_onnx(true), {.num_threads = num_threads});
    const auto x = random_floats(1000 * 32, 9);
    const auto expected = scores_of(*session, x);
    CHECK(close(expected[999], network.exact(&x[999 * 32], true).score));
    std::vector<std::thread> threads;
    std::vector<int> wrong(8, 0);
    for (std::size_t t = 0; t < wrong.size(); ++t) {
      threads.emplace_back([&, t] {
        for (int round = 0; round < 20; ++round) {
          if (scores_of(*session, x) != expected) ++wrong[t];
          const std::vector<float> row(x.begin(), x.begin() + 32);
          if (!close(scores_of(*session, row)[0], expected[0])) ++wrong[t];
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (const int count : wrong) CHECK(count == 0);
  }
}

}  // namespace
}  // namespace datasentinel

int main() {
  using namespace datasentinel;
  using testing::with_each_isa;
  with_each_isa(matches_float64_at_every_batch_size);
  with_each_isa(explains_scores_feature_by_feature);
  with_each_isa(keeps_precision_at_large_offsets);
  with_each_isa(overflows_to_no_finite_score);
  with_each_isa(scores_a_graph_without_score);
  with_each_isa(keeps_the_state_of_streams);
  refuses_what_it_cannot_run();
  refuses_what_the_graph_does_not_compute();
  many_threads_share_a_session();
  return check::result();
}
