#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <string>
#include <vector>

#include "backends/fused/floats.h"
#include "backends/fused/isa.h"
#include "check.h"

// Every element-wise function of every instruction set against float64, over the whole float32 range.

namespace datasentinel::fused {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// Multiples of the distance between neighbouring float32 numbers at `exact`.
double error_in_ulps(float got, double exact) {
  if (std::abs(exact) > std::numeric_limits<float>::max()) {
    return got == (exact > 0 ? kInfinity : -kInfinity) ? 0 : std::abs(double{got} / exact - 1) * 0x1p23;
  }
  const int exponent = exact == 0 ? -126 : std::max(std::ilogb(exact), -126);
  return std::abs(double{got} - exact) / std::ldexp(1.0, exponent - 23);
}

double phi(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); }
double sigmoid(double x) { return x < 0 ? std::exp(x) / (1 + std::exp(x)) : 1 / (1 + std::exp(-x)); }

struct Case {
  const char* name;
  FunctionCall function;
  double (*exact)(double);
  double lowest;
  double highest;
  double ulps;  ///< The stated bound.
};

const std::vector<Case>& cases() {
  constexpr double kMax = std::numeric_limits<float>::max();
  static const std::vector<Case> kCases = {
      {"relu", {Function::relu}, [](double x) { return std::max(x, 0.0); }, -kMax, kMax, 0},
      {"leaky_relu",
       {Function::leaky_relu, 0.25F},
       [](double x) { return x < 0 ? 0.25 * x : x; },
       -kMax,
       kMax,
       0.5},
      {"elu", {Function::elu, 1, 1}, [](double x) { return x < 0 ? std::expm1(x) : x; }, -kMax, kMax, 2},
      {"exp", {Function::exp}, [](double x) { return std::exp(x); }, -kMax, kMax, 2},
      {"power of 2", power_of(2), [](double x) { return std::exp2(x); }, -kMax, kMax, 2},
      {"power of 10", power_of(10), [](double x) { return std::pow(10, x); }, -kMax, kMax, 2},
      {"power of 1/3", power_of(1.0 / 3), [](double x) { return std::pow(1.0 / 3, x); }, -kMax, kMax, 2},
      {"log", {Function::log}, [](double x) { return std::log(x); }, 0, kMax, 2},
      {"tanh", {Function::tanh}, [](double x) { return std::tanh(x); }, -kMax, kMax, 2},
      {"sigmoid", {Function::sigmoid}, sigmoid, -kMax, kMax, 3},
      {"softplus",
       {Function::softplus},
       [](double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x))); },
       -kMax,
       kMax,
       3},
      {"silu", {Function::silu}, [](double x) { return x * sigmoid(x); }, -85, kMax, 4},
      {"erf", {Function::erf}, [](double x) { return std::erf(x); }, -kMax, kMax, 4},
      // The tail of the normal distribution is exp(-x^2 / 2): rounding x^2 alone costs x^2 / 4 ulps.
      {"gelu", {Function::gelu}, [](double x) { return x * phi(x); }, -2, kMax, 8},
      {"gelu tail", {Function::gelu}, [](double x) { return x * phi(x); }, -14, -2, 128},
      {"gelu_tanh",
       {Function::gelu_tanh},
       [](double x) {
         return x * sigmoid(2 * std::sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x));
       },
       -4,
       kMax,
       30},
      {"hard_sigmoid",
       {Function::hard_sigmoid, 0.25F, 0.5F},
       [](double x) { return std::min(1.0, std::max(0.0, 0.25 * x + 0.5)); },
       -1,
       kMax,
       1},
      {"hard_swish",
       {Function::hard_swish},
       [](double x) { return x * std::min(1.0, std::max(0.0, x / 6 + 0.5)); },
       -1,
       kMax,
       2},
      {"softsign", {Function::softsign}, [](double x) { return x / (1 + std::abs(x)); }, -kMax, kMax, 2},
      {"clip",
       {Function::clip, -1, 2},
       [](double x) { return std::min(2.0, std::max(-1.0, x)); },
       -kMax,
       kMax,
       0},
      {"abs", {Function::abs}, [](double x) { return std::abs(x); }, -kMax, kMax, 0},
      {"sign", {Function::sign}, [](double x) { return x > 0   ? 1.0
                                                       : x < 0 ? -1.0
                                                               : 0.0; }, -kMax, kMax, 0},
      {"sqrt", {Function::sqrt}, [](double x) { return std::sqrt(x); }, 0, kMax, 0.5},
      {"square", {Function::square}, [](double x) { return x * x; }, -kMax, kMax, 0.5},
      {"reciprocal", {Function::reciprocal}, [](double x) { return 1 / x; }, 1e-37, kMax, 0.5},
  };
  return kCases;
}

/// Numbers of every sign and exponent, subnormal ones included, dense where the functions bend.
std::vector<float> inputs(const Case& c) {
  std::vector<float> values;
  const auto add = [&](float value) {
    if (std::isfinite(value) && value >= c.lowest && value <= c.highest) values.push_back(value);
  };
  for (std::uint64_t bits = 0; bits <= 0xFFFFFFFFU; bits += 40961) {
    add(std::bit_cast<float>(static_cast<std::uint32_t>(bits)));
  }
  for (int i = -150000; i <= 150000; ++i) add(static_cast<float>(i) * 1e-3F);
  for (const float special : {0.0F, 1e-45F, 1.17549435e-38F, 1e30F, 3.4028235e38F, 88.7F, 103.9F}) {
    add(special);
    add(-special);
  }
  while (values.size() % 16 != 0) values.push_back(values.front());
  return values;
}

void matches_float64(const Kernels& kernels) {
  for (const Case& c : cases()) {
    const std::vector<float> in = inputs(c);
    CHECK(in.size() > 1000);
    std::vector<float> out(in.size());
    kernels.apply(c.function, in.data(), out.data(), static_cast<long>(in.size()));
    double worst = 0;
    float where = 0;
    for (std::size_t i = 0; i < in.size(); ++i) {
      const double error = error_in_ulps(out[i], c.exact(in[i]));
      if (!(error <= worst)) {
        worst = error;
        where = in[i];
      }
    }
    std::printf("%-9s %-13s %6.2f ulp at %g\n", kernels.isa, c.name, worst, double{where});
    CHECK(worst <= c.ulps);
  }
}

void saturates(const Kernels& kernels) {
  const auto at = [&kernels](Function function, float x) {
    std::vector<float> in(16, x);
    std::vector<float> out(16);
    kernels.apply({function, 1, 1}, in.data(), out.data(), 16);
    return out[0];
  };
  for (const float huge : {50.0F, 1e30F, kInfinity}) {
    CHECK(at(Function::tanh, huge) == 1 && at(Function::tanh, -huge) == -1);
    CHECK(at(Function::erf, huge) == 1 && at(Function::erf, -huge) == -1);
    CHECK(at(Function::sigmoid, huge) == 1);
    CHECK(at(Function::sigmoid, -huge) < 1e-20F);
    CHECK(at(Function::gelu, huge) == huge && at(Function::gelu_tanh, huge) == huge);
    CHECK(std::abs(at(Function::silu, -huge)) < 1e-19F);
    CHECK(at(Function::gelu, -huge) == 0 && at(Function::gelu_tanh, -huge) == 0);
    CHECK(at(Function::elu, -huge) == -1 && at(Function::elu, huge) == huge);
    CHECK(at(Function::softplus, huge) == huge);
  }
  CHECK(at(Function::exp, 1e30F) == kInfinity && at(Function::exp, -1e30F) == 0);
  CHECK(at(Function::log, 0.0F) == -kInfinity && at(Function::log, kInfinity) == kInfinity);
  CHECK(std::isnan(at(Function::log, -1.0F)));
  // A NaN, which only overflow inside the network can make, must reach the score.
  for (int function = 0; function <= static_cast<int>(Function::erf); ++function) {
    CHECK(std::isnan(at(static_cast<Function>(function), std::numeric_limits<float>::quiet_NaN())));
  }
}

}  // namespace
}  // namespace datasentinel::fused

int main() {
  for (const auto& set : datasentinel::fused::instruction_sets()) {
    if (!set.supported) {
      std::printf("%s: not on this processor\n", set.name.c_str());
      continue;
    }
    datasentinel::fused::matches_float64(set.kernels());
    datasentinel::fused::saturates(set.kernels());
  }
  return datasentinel::check::result();
}
