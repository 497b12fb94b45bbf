#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <new>
#include <set>
#include <string>
#include <vector>

#include "backends/fused/lowering.h"
#include "check.h"
#include "core/error.h"
#include "fused_models.h"
#include "onnx/graph.h"
#include "onnx_builder.h"

// Small files that ask for much memory, by what `new` gives them.

namespace {

std::atomic<std::size_t> bytes_held{0};
std::atomic<std::size_t> most_bytes_held{0};

}  // namespace

void* operator new(std::size_t size) {
  void* const memory = std::malloc(size);
  if (memory == nullptr) throw std::bad_alloc();
  const std::size_t held = bytes_held += malloc_usable_size(memory);
  std::size_t most = most_bytes_held;
  while (held > most && !most_bytes_held.compare_exchange_weak(most, held)) continue;
  return memory;
}

void* operator new(std::size_t size, const std::nothrow_t& /*tag*/) noexcept {
  try {
    return operator new(size);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

void operator delete(void* memory) noexcept {
  if (memory != nullptr) bytes_held -= malloc_usable_size(memory);
  std::free(memory);
}

void operator delete(void* memory, std::size_t /*size*/) noexcept { operator delete(memory); }

void operator delete(void* memory, const std::nothrow_t& /*tag*/) noexcept { operator delete(memory); }

namespace datasentinel {
namespace {

using namespace testing;

constexpr std::size_t kMegabyte = std::size_t{1} << 20;

/// What reading and lowering a model takes beside the file.
template <typename Use>
std::size_t bytes_taken(const Use& use) {
  const std::size_t before = bytes_held;
  most_bytes_held = before;
  use();
  return most_bytes_held - before;
}

fused::Program lowered(const Message& model) {
  return fused::lower(onnx::read_graph({.name = "model.onnx", .onnx = model.view()}));
}

std::size_t fact(const Session& session, std::string_view wanted) {
  for (const auto& [name, value] : session.facts()) {
    if (name == wanted) return std::stoul(value);
  }
  return 0;
}

/// [batch, width] -> [batch]
ModelBuilder scorer_of(std::int64_t width) {
  ModelBuilder model;
  model.input(value_info("input", {-1, width})).output(value_info("score", {-1}));
  model.weight(int_tensor("axes", {1}, {1}));
  return model;
}

/// The sum over the columns of each of these.
Message summed(ModelBuilder& model, const std::vector<std::string>& names) {
  model.add(node("Sum", names, {"sum"}))
      .add(node("ReduceSum", {"sum", "axes"}, {"score"}, {int_attribute("keepdims", 0)}));
  return model.finish();
}

/// One step after the other, each of which reads the last one's result.
template <typename Step>
Message chained(ModelBuilder& model, std::size_t count, const Step& step) {
  std::string last = "input";
  for (std::size_t i = 0; i < count; ++i) {
    const std::string next = "x" + std::to_string(i);
    model.add(step(last, next));
    last = next;
  }
  return summed(model, {last});
}

constexpr std::int64_t kWide = std::int64_t{1} << 18;

/// Sums of the same scaled columns: each holds the scale.
Message sums_of_scaled_columns() {
  ModelBuilder model = scorer_of(kWide);
  model.weight(float_tensor("scale", {kWide}, random_floats(kWide, 1)))
      .add(node("Mul", {"input", "scale"}, {"scaled"}));
  std::vector<std::string> sums;
  for (int i = 0; i < 400; ++i) {
    model.add(node("ReduceSum", {"scaled", "axes"}, {sums.emplace_back("s" + std::to_string(i))}));
  }
  return summed(model, sums);
}

/// Wide columns times one number, again and again.
Message products_of_wide_columns() {
  ModelBuilder model = scorer_of(kWide);
  model.weight(float_tensor("factor", {}, {0.5F}));
  return chained(model, 400, [](const std::string& last, const std::string& next) {
    return node("Mul", {last, "factor"}, {next});
  });
}

/// Layers with the same weights, each of which scales them differently.
Message layers_of_scaled_weights() {
  constexpr std::int64_t kSize = 256;
  ModelBuilder model = scorer_of(kSize);
  model.weight(float_tensor("weights", {kSize, kSize}, random_floats(kSize * kSize, 1)))
      .weight(float_tensor("scale", {kSize}, random_floats(kSize, 2)));
  for (int i = 0; i < 1000; ++i) {
    const std::string n = std::to_string(i);
    const std::string last = i == 0 ? "input" : "x" + std::to_string(i - 1);
    model.add(node("MatMul", {last, "weights"}, {"layer" + n}))
        .add(node("Mul", {"layer" + n, "scale"}, {"scaled" + n}))
        .add(node("Tanh", {"scaled" + n}, {"x" + n}));
  }
  return summed(model, {"x999"});
}

/// A constant joined with itself.
Message constants_joined_often() {
  ModelBuilder model = scorer_of(4);
  model.weight(float_tensor("part", {1 << 16}, random_floats(1 << 16, 1)))
      .add(node("Concat", std::vector<std::string>(4000, "part"), {"joined"}, {int_attribute("axis", 0)}))
      .add(node("Add", {"input", "joined"}, {"shifted"}));
  return summed(model, {"shifted"});
}

/// A constant of bytes turned into numbers again and again.
Message constants_dequantised_often() {
  ModelBuilder model = scorer_of(4);
  Message bytes;
  bytes.varint(1, 1 << 18).varint(2, 3).bytes(8, "bytes").bytes(9, std::string(1 << 18, '\1'));
  model.weight(bytes).weight(float_tensor("step", {}, {0.5F}));
  std::vector<std::string> names;
  for (int i = 0; i < 400; ++i) {
    model.add(node("DequantizeLinear", {"bytes", "step"}, {names.emplace_back("q" + std::to_string(i))}));
  }
  for (std::string& name : names) {
    const std::string shifted = name + "_shifted";
    model.add(node("Add", {"input", name}, {shifted}));
    name = shifted;
  }
  return summed(model, names);
}

/// Columns repeated along more axes than there is room for.
Message repeats_along_many_axes() {
  constexpr std::size_t kAxes = 400;
  ModelBuilder model = scorer_of(4);
  std::vector<std::int64_t> axes(kAxes, 1), repeats(kAxes, std::int64_t{1} << 18);
  axes.front() = repeats.front() = 1;
  axes[0] = -1;
  axes[1] = 4;
  model.weight(int_tensor("shape", {kAxes}, axes)).weight(int_tensor("repeats", {kAxes}, repeats));
  model.add(node("Reshape", {"input", "shape"}, {"deep"})).add(node("Tile", {"deep", "repeats"}, {"tiled"}));
  return summed(model, {"tiled"});
}

/// One column joined with itself: a step for each time.
Message columns_joined_often() {
  ModelBuilder model = scorer_of(1);
  model.add(node("Identity", {"input"}, {"i"}))
      .add(node("Concat", std::vector<std::string>(600'000, "i"), {"x"}, {int_attribute("axis", 1)}));
  return summed(model, {"x"});
}

/// All that would take gigabytes, refused when it has taken little.
void refuses_small_files_that_ask_for_much_memory() {
  const auto check = [](const Message& model, const char* problem, std::size_t most_bytes) {
    CHECK(model.text().size() < 3 * kMegabyte);
    const std::size_t taken =
        bytes_taken([&] { CHECK_THROWS_WITH(ErrorCode::unsupported_model, problem, lowered(model)); });
    CHECK(taken < most_bytes);
    if (taken >= most_bytes) std::fprintf(stderr, "%s: %zu bytes\n", problem, taken);
  };
  constexpr const char* kColumns = "the constants of its columns would take far more memory";
  constexpr const char* kConstants = "what is made of the graph's constants would take far more memory";
  check(sums_of_scaled_columns(), kColumns, 768 * kMegabyte);
  check(products_of_wide_columns(), kColumns, 768 * kMegabyte);
  check(constants_joined_often(), kConstants, 64 * kMegabyte);
  check(constants_dequantised_often(), kConstants, 128 * kMegabyte);
  check(repeats_along_many_axes(), "its input has too many axes", kMegabyte);
  check(columns_joined_often(), "it takes more than 262144 steps", 256 * kMegabyte);
}

/// Scales that do not fit into copies of shared weights stay steps of their own.
void scales_of_shared_weights_stay_apart_where_there_is_no_room() {
  std::size_t layers = 0;
  const std::size_t taken = bytes_taken([&] {
    for (const fused::Instruction& step : lowered(layers_of_scaled_weights()).instructions) {
      layers += step.op == fused::Op::dense ? 1 : 0;
    }
  });
  CHECK(layers == 1000);
  CHECK(taken < 768 * kMegabyte);
}

/// Wide columns that are scaled and shifted before each of many functions.
void takes_wide_columns_that_are_scaled_often() {
  constexpr std::int64_t kWidth = std::int64_t{1} << 18;
  ModelBuilder model = scorer_of(kWidth);
  const auto one = [&](const char* name, float value) { model.weight(float_tensor(name, {}, {value})); };
  one("scale", 1.01F);
  one("shift", 0.01F);
  std::string last = "input";
  for (int i = 0; i < 25; ++i) {
    const std::string n = std::to_string(i);
    model.add(node("Mul", {last, "scale"}, {"scaled" + n}))
        .add(node("Add", {"scaled" + n, "shift"}, {"shifted" + n}))
        .add(node("Relu", {"shifted" + n}, {"x" + n}));
    last = "x" + n;
  }
  CHECK(!lowered(summed(model, {last})).instructions.empty());
}

/// Layers that read the same weights hold and pack them once, whatever their biases and what reads them.
void layers_share_their_weights() {
  constexpr std::int64_t kSize = 128;
  const auto weights = random_floats(kSize * kSize, 1, 0.1F);
  const auto with_layers = [&](int count) {
    ModelBuilder model = scorer_of(kSize);
    model.weight(float_tensor("weights", {kSize, kSize}, weights)).weight(int_tensor("k", {1}, {3}));
    std::vector<std::string> kept;
    std::string last = "input";
    for (int i = 0; i < count; ++i) {
      const std::string n = std::to_string(i);
      model.weight(float_tensor("bias" + n, {kSize}, random_floats(kSize, static_cast<unsigned>(i))));
      model.add(node("Gemm", {last, "weights", "bias" + n}, {"sum" + n}))
          .add(node("Tanh", {"sum" + n}, {"x" + n}))
          .add(node("Gemm", {"x" + n, "weights"}, {"y" + n}, {int_attribute("transB", 1)}))
          .add(node("TopK", {"y" + n, "k"}, {kept.emplace_back("kept" + n), "which" + n}));
      last = "x" + n;
    }
    return summed(model, kept);
  };
  constexpr int kCount = 30;
  const Message model = with_layers(kCount);
  std::set<const void*> matrices;
  std::size_t layers = 0;
  for (const fused::Instruction& step : lowered(model).instructions) {
    if (step.op != fused::Op::dense) continue;
    ++layers;
    matrices.insert(step.dense.weights.shared());
  }
  CHECK(layers == 2 * kCount);
  CHECK(matrices.size() == 2);
  const auto session = load(model);
  constexpr const char* kPacked = "packed weights bytes";
  CHECK(fact(*session, kPacked) < 2 * fact(*load(with_layers(1)), kPacked));

  for (const std::size_t rows : {1, 5, 100}) {
    const auto x = random_floats(rows * kSize, 7);
    const auto scores = scores_of(*session, x);
    for (std::size_t row = 0; row < rows; ++row) {
      std::vector<double> h(x.begin() + static_cast<std::ptrdiff_t>(row * kSize),
                            x.begin() + static_cast<std::ptrdiff_t>((row + 1) * kSize));
      double score = 0;
      for (int i = 0; i < kCount; ++i) {
        const auto bias = random_floats(kSize, static_cast<unsigned>(i));
        std::vector<double> next(kSize), reached(kSize, 0.0);
        for (std::size_t n = 0; n < kSize; ++n) {
          next[n] = bias[n];
          for (std::size_t k = 0; k < kSize; ++k) next[n] += h[k] * double{weights[k * kSize + n]};
          next[n] = std::tanh(next[n]);
        }
        for (std::size_t n = 0; n < kSize; ++n) {
          for (std::size_t k = 0; k < kSize; ++k) reached[n] += next[k] * double{weights[n * kSize + k]};
        }
        h = std::move(next);
        std::ranges::sort(reached, std::greater<>());
        score += reached[0] + reached[1] + reached[2];
      }
      CHECK(close(scores[row], score, 1e-4));
    }
  }
}

/// A deep graph needs no more room at a time than a shallow one: wide and narrow values by turns, of which
/// one is kept to the end.
void deep_graphs_need_little_room() {
  const auto wider = random_floats(3 * 40, 1, 0.3F);
  const auto narrower = random_floats(40 * 3, 2, 0.3F);
  const auto with_layers = [&](std::size_t count) {
    ModelBuilder model = scorer_of(3);
    model.weight(float_tensor("wider", {3, 40}, wider)).weight(float_tensor("narrower", {40, 3}, narrower));
    std::string last = "input";
    for (std::size_t i = 0; i < count; ++i) {
      const std::string n = std::to_string(i);
      model.add(node("MatMul", {last, "wider"}, {"sum" + n}))
          .add(node("Tanh", {"sum" + n}, {"wide" + n}))
          .add(node("MatMul", {"wide" + n, "narrower"}, {last = "x" + n}));
    }
    return summed(model, {"x0", last});
  };
  constexpr std::size_t kMany = 3000;
  const auto deep = load(with_layers(kMany));
  constexpr const char* kRoom = "scratch bytes per concurrent call";
  CHECK(fact(*deep, kRoom) == fact(*load(with_layers(3)), kRoom));

  const auto x = random_floats(3, 3);
  std::vector<double> h(x.begin(), x.end());
  double score = 0;
  for (std::size_t i = 0; i < kMany; ++i) {
    std::vector<double> wide(40, 0.0), next(3, 0.0);
    for (std::size_t n = 0; n < 40; ++n) {
      for (std::size_t k = 0; k < 3; ++k) wide[n] += h[k] * double{wider[k * 40 + n]};
      for (std::size_t k = 0; k < 3; ++k) next[k] += std::tanh(wide[n]) * double{narrower[n * 3 + k]};
    }
    h = std::move(next);
    if (i == 0 || i + 1 == kMany) score += h[0] + h[1] + h[2];
  }
  CHECK(close(scores_of(*deep, x)[0], score, 1e-4));
}

}  // namespace
}  // namespace datasentinel

int main() {
  using namespace datasentinel;
  refuses_small_files_that_ask_for_much_memory();
  scales_of_shared_weights_stay_apart_where_there_is_no_room();
  takes_wide_columns_that_are_scaled_often();
  testing::with_each_isa(layers_share_their_weights);
  testing::with_each_isa(deep_graphs_need_little_room);
  return check::result();
}
