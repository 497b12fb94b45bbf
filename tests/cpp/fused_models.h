#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#include "backends/fused/backend.h"
#include "backends/fused/isa.h"
#include "onnx_builder.h"

// Models on the fused backend, and numbers to compare.

namespace datasentinel::testing {

/// Runs `test` once with each instruction set of this processor forced.
inline void with_each_isa(const std::function<void()>& test) {
  for (const auto& set : fused::instruction_sets()) {
    if (!set.supported) continue;
    setenv("DATASENTINEL_ISA", set.name.c_str(), 1);
    test();
  }
  unsetenv("DATASENTINEL_ISA");
}

inline std::unique_ptr<Session> load(const Message& model, const SessionOptions& options = {}) {
  return make_fused_backend()->load({.name = "model.onnx", .onnx = model.view()}, options);
}

inline std::vector<float> random_floats(std::size_t count, unsigned seed, float scale = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

inline std::vector<float> scores_of(Session& session, const std::vector<float>& x) {
  const std::size_t rows = x.size() / session.input_dim();
  std::vector<float> scores(rows);
  session.run({.data = x.data(), .rows = rows, .columns = session.input_dim()},
              {.scores = scores.data(), .reconstructions = nullptr});
  return scores;
}

inline bool close(double got, double exact, double tolerance = 1e-5) {
  if (std::abs(got - exact) <= tolerance * std::abs(exact)) return true;
  std::fprintf(stderr, "got %.9g, exactly %.9g\n", got, exact);
  return false;
}

}  // namespace datasentinel::testing
