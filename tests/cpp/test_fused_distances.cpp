#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <string>
#include <vector>

#include "backends/fused/distances.h"
#include "backends/fused/lowering.h"
#include "backends/fused/takers.h"
#include "check.h"
#include "fused_models.h"
#include "onnx/graph.h"
#include "onnx_builder.h"

namespace datasentinel {
namespace {

using namespace testing;

/// log(mean of the 2 smallest squared distances to 5 prototypes) + 0.5 * max |x W| + a tail term, clipped.
void scores_by_prototypes_and_tails() {
  constexpr std::size_t kDim = 6;
  constexpr std::size_t kPrototypes = 5;
  const auto p = random_floats(kPrototypes * kDim, 1);
  std::vector<float> minus_two_p(p);
  std::vector<float> norms(kPrototypes, 0);
  for (float& value : minus_two_p) value *= -2;
  for (std::size_t i = 0; i < p.size(); ++i) norms[i / kDim] += p[i] * p[i];
  const auto whitening = random_floats(kDim * kDim, 2);
  const auto session =
      load(ModelBuilder()
               .input(value_info("input", {-1, 6}))
               .output(value_info("score", {-1}))
               .weight(float_tensor("p", {5, 6}, minus_two_p))
               .weight(float_tensor("norms", {1, 5}, norms))
               .weight(float_tensor("whitening", {6, 6}, whitening))
               .weight(float_tensor("half", {}, {0.5F}))
               .weight(float_tensor("low", {}, {-3}))
               .weight(float_tensor("high", {}, {50}))
               .weight(int_tensor("axes", {1}, {-1}))
               .weight(int_tensor("k", {1}, {2}))
               .weight(int_tensor("picked", {2}, {4, -6}))
               .add(node("ReduceSumSquare", {"input", "axes"}, {"xx"}))
               .add(node("Gemm", {"input", "p", "norms"}, {"xp"}, {int_attribute("transB", 1)}))
               .add(node("Add", {"xx", "xp"}, {"distances"}))
               .add(node("TopK", {"distances", "k"}, {"nearest", "which"}, {int_attribute("largest", 0)}))
               .add(node("ReduceMean", {"nearest", "axes"}, {"distance"}))
               .add(node("Log", {"distance"}, {"log_distance"}))
               .add(node("MatMul", {"input", "whitening"}, {"white"}))
               .add(node("Abs", {"white"}, {"size"}))
               .add(node("ReduceMax", {"size", "axes"}, {"largest"}))
               .add(node("Mul", {"largest", "half"}, {"weighted"}))
               .add(node("Add", {"log_distance", "weighted"}, {"two"}))
               .add(node("Gather", {"input", "picked"}, {"pair"}, {int_attribute("axis", 1)}))
               .add(node("Concat", {"pair", "two"}, {"all"}, {int_attribute("axis", 1)}))
               .add(node("Clip", {"all", "low", "high"}, {"clipped"}))
               .add(node("ReduceSum", {"clipped", "axes"}, {"score"}, {int_attribute("keepdims", 0)}))
               .finish());
  for (const std::size_t rows : {1, 4, 40}) {
    const auto x = random_floats(rows * kDim, 4);
    const auto scores = scores_of(*session, x);
    for (std::size_t row = 0; row < rows; ++row) {
      const float* r = &x[row * kDim];
      std::vector<double> distances(kPrototypes, 0);
      double largest = 0;
      for (std::size_t i = 0; i < p.size(); ++i)
        distances[i / kDim] += std::pow(double{r[i % kDim]} - p[i], 2);
      for (std::size_t n = 0; n < kDim; ++n) {
        double sum = 0;
        for (std::size_t k = 0; k < kDim; ++k) sum += double{r[k]} * whitening[k * kDim + n];
        largest = std::max(largest, std::abs(sum));
      }
      std::sort(distances.begin(), distances.end());
      const auto clip = [](double value) { return std::min(50.0, std::max(-3.0, value)); };
      const double two = std::log((distances[0] + distances[1]) / 2) + 0.5 * largest;
      const double exact = clip(two) + clip(r[4]) + clip(r[0]);
      CHECK(std::abs(scores[row] - exact) < 1e-5 * std::max(1.0, std::abs(exact)));
    }
  }
}

fused::Program program_of(const Message& model) {
  const onnx::Graph graph = onnx::read_graph({.name = "model.onnx", .onnx = model.view()});
  return fused::in_order(fused::with_distances(fused::lower(graph)));
}

std::ptrdiff_t count_steps(const Message& model, fused::Op op) {
  return std::ranges::count(program_of(model).instructions, op, &fused::Instruction::op);
}

/// The columns of which the program computes squared differences, each as often as it does.
std::size_t count_squared_columns(const Message& model) {
  std::size_t columns = 0;
  for (const fused::Instruction& step : program_of(model).instructions) {
    if (step.op == fused::Op::distances) columns += step.dense.inputs;
  }
  return columns;
}

/// The 3 smallest squared distances of some columns, picked in any order, to points, the farthest one, and
/// what is left of the sum over the columns but the last: scaled differently, and with points of its own.
void measures_distances_by_differences() {
  constexpr std::size_t kDim = 6;
  const std::vector<std::size_t> columns{4, 0, 5, 1};
  for (const std::size_t count : {5, 100, 333}) {
    const auto points = random_floats(count * columns.size(), 1);
    const auto size = static_cast<std::int64_t>(count);
    ModelBuilder model;
    model.input(value_info("input", {-1, kDim})).output(value_info("score", {-1}));
    model.weight(int_tensor("axes", {1}, {-1})).weight(int_tensor("k", {1}, {3}));
    model.weight(float_tensor("half", {}, {0.5F}));
    for (std::size_t i = 0; i < columns.size(); ++i) {
      const std::string n = std::to_string(i);
      model.weight(int_tensor("index" + n, {1}, {static_cast<std::int64_t>(columns[i])}));
      model.weight(float_tensor("points" + n, {1, size},
                                {points.begin() + static_cast<std::ptrdiff_t>(i * count),
                                 points.begin() + static_cast<std::ptrdiff_t>((i + 1) * count)}));
      model.add(node("Gather", {"input", "index" + n}, {"column" + n}, {int_attribute("axis", 1)}))
          .add(node("Sub", {"column" + n, "points" + n}, {"difference" + n}))
          .add(node("Mul", {"difference" + n, "difference" + n}, {"square" + n}));
    }
    model.add(node("Add", {"square0", "square1"}, {"sum1"}))
        .add(node("Add", {"sum1", "square2"}, {"sum2"}))
        .add(node("Add", {"sum2", "square3"}, {"sum3"}))
        .add(node("TopK", {"sum3", "k"}, {"nearest", "which"}, {int_attribute("largest", 0)}))
        .add(node("ReduceMax", {"sum3", "axes"}, {"farthest"}))
        .add(node("Mul", {"sum2", "half"}, {"scaled"}))
        .add(node("ReduceMin", {"scaled", "axes"}, {"least"}))
        .add(node("Concat", {"nearest", "farthest", "least"}, {"all"}, {int_attribute("axis", 1)}))
        .add(node("ReduceSum", {"all", "axes"}, {"score"}, {int_attribute("keepdims", 0)}));
    const Message file = model.finish();
    CHECK(count_steps(file, fused::Op::distances) == 2);
    CHECK(count_steps(file, fused::Op::dense) == 0);
    CHECK(count_squared_columns(file) == columns.size());
    const auto session = load(file);
    for (const std::size_t rows : {1, 2, 7, 40, 70}) {
      auto x = random_floats(rows * kDim, 2);
      for (std::size_t i = 0; i < columns.size(); ++i) x[columns[i]] = points[i * count];  // a point itself
      const auto scores = scores_of(*session, x);
      for (std::size_t row = 0; row < rows; ++row) {
        std::vector<double> whole(count), partial(count);
        for (std::size_t p = 0; p < count; ++p) {
          for (std::size_t i = 0; i < columns.size(); ++i) {
            whole[p] += std::pow(double{x[row * kDim + columns[i]]} - points[i * count + p], 2);
            if (i + 2 == columns.size()) partial[p] = whole[p];
          }
        }
        std::ranges::sort(whole);
        const double exact = whole[0] + whole[1] + whole[2] + whole.back() + std::ranges::min(partial) / 2;
        CHECK(close(scores[row], exact, 1e-6));
      }
    }
  }
}

/// 3 sums of one square that is doubled 9 times or, with `squares_again`, 8 times before another square of
/// the same difference is added.
void computes_what_sums_share_once() {
  constexpr std::int64_t kPoints = 40;
  const auto points = random_floats(kPoints, 1);
  for (const bool squares_again : {false, true}) {
    ModelBuilder model;
    model.input(value_info("input", {-1, 1})).output(value_info("score", {-1}));
    model.weight(int_tensor("axes", {1}, {-1})).weight(float_tensor("points", {1, kPoints}, points));
    model.add(node("Sub", {"input", "points"}, {"difference"}))
        .add(node("Mul", {"difference", "difference"}, {"sum0"}));
    std::string last = "sum0";
    for (int i = 1; i <= 8; ++i) {
      const std::string sum = "sum" + std::to_string(i);
      model.add(node("Add", {last, last}, {sum}));
      last = sum;
    }
    for (const std::string n : {"0", "1", "2"}) {
      std::string added = last;
      if (squares_again) model.add(node("Mul", {"difference", "difference"}, {added = "square" + n}));
      model.add(node("Add", {last, added}, {"twice" + n}))
          .add(node("ReduceMin", {"twice" + n, "axes"}, {"least" + n}));
    }
    model.add(node("Concat", {"least0", "least1", "least2"}, {"all"}, {int_attribute("axis", 1)}))
        .add(node("ReduceSum", {"all", "axes"}, {"score"}, {int_attribute("keepdims", 0)}));
    const Message file = model.finish();
    CHECK(count_squared_columns(file) <= 1);
    const float x = 0.3F;
    double least = std::numeric_limits<double>::infinity();
    for (const float point : points) least = std::min(least, std::pow(double{x} - point, 2));
    CHECK(close(scores_of(*load(file), {x})[0], least * 3 * (squares_again ? 257 : 512), 1e-5));
  }
}

}  // namespace
}  // namespace datasentinel

int main() {
  using namespace datasentinel;
  using testing::with_each_isa;
  with_each_isa(scores_by_prototypes_and_tails);
  with_each_isa(measures_distances_by_differences);
  computes_what_sums_share_once();
  return check::result();
}
