#include "machine_peak.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <vector>

// The loops are written out per instruction set with function-level targets: enough independent multiply-adds
// to hide their latency, and sums of loads that nothing but the load ports can limit.

#define BENCH_DEFINE(NAME, TARGET, LANES, ACCUMULATORS)                                                    \
  namespace NAME {                                                                                         \
  typedef float Vector __attribute__((vector_size(LANES * 4)));                                            \
  TARGET float multiply_add(long rounds) {                                                                 \
    Vector sums[ACCUMULATORS] = {};                                                                        \
    Vector x = Vector{} + 1.0F;                                                                            \
    Vector y = Vector{} + 1e-9F;                                                                           \
    asm volatile("" : "+x"(x), "+x"(y));                                                                   \
    for (Vector& sum : sums) asm volatile("" : "+x"(sum)); /* or the compiler would compute one of them */ \
    for (long i = 0; i < rounds; ++i) {                                                                    \
      _Pragma("GCC unroll 32") for (int k = 0; k < ACCUMULATORS; ++k) sums[k] = sums[k] * x + y;           \
    }                                                                                                      \
    Vector total = {};                                                                                     \
    for (const Vector& sum : sums) total += sum;                                                           \
    return total[0];                                                                                       \
  }                                                                                                        \
  TARGET float read(const float* data, std::size_t floats) {                                               \
    Vector sums[8] = {};                                                                                   \
    for (std::size_t i = 0; i < floats; i += 8 * LANES) {                                                  \
      _Pragma("GCC unroll 8") for (int k = 0; k < 8; ++k) {                                                \
        sums[k] += *reinterpret_cast<const Vector*>(data + i + static_cast<std::size_t>(k) * LANES);       \
      }                                                                                                    \
    }                                                                                                      \
    Vector total = {};                                                                                     \
    for (const Vector& sum : sums) total += sum;                                                           \
    return total[0];                                                                                       \
  }                                                                                                        \
  constexpr double kFlopsPerRound = 2.0 * ACCUMULATORS * LANES;                                            \
  }

namespace datasentinel::bench {
namespace {

#if defined(__x86_64__)
BENCH_DEFINE(avx512, __attribute__((target("avx512f,fma,prefer-vector-width=512"))), 16, 20)
BENCH_DEFINE(avx2, __attribute__((target("avx2,fma"))), 8, 12)
#endif
BENCH_DEFINE(portable, , 4, 12)

volatile float sink;

/// Amounts per second: the best of many short runs, because every disturbance only makes a run slower.
template <typename Run>
double best_rate(double seconds, double amount, Run run) {
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  double best = 0;
  do {
    const auto start = Clock::now();
    sink = run();
    best = std::max(best, amount / std::chrono::duration<double>(Clock::now() - start).count());
  } while (Clock::now() < end);
  return best;
}

struct Probes {
  double flops_per_round;
  float (*multiply_add)(long rounds);
  float (*read)(const float* data, std::size_t floats);
};

Probes probes_for(std::string_view isa) {
#if defined(__x86_64__)
  if (isa == "avx512") return {avx512::kFlopsPerRound, avx512::multiply_add, avx512::read};
  if (isa == "avx2") return {avx2::kFlopsPerRound, avx2::multiply_add, avx2::read};
#endif
  return {portable::kFlopsPerRound, portable::multiply_add, portable::read};
}

}  // namespace

double measure_flops(std::string_view isa, double seconds) {
  constexpr long kRounds = 20000;
  const Probes probes = probes_for(isa);
  return best_rate(seconds, probes.flops_per_round * kRounds, [&] { return probes.multiply_add(kRounds); });
}

Peak measure_peak(std::string_view isa, double seconds) {
  struct alignas(64) Line {
    float values[16];
  };
  constexpr std::size_t kLargest = std::size_t{256} << 20;
  const Probes probes = probes_for(isa);
  const std::vector<Line> lines(kLargest / sizeof(Line));
  const auto bandwidth = [&](std::size_t bytes, int repeats) {
    return best_rate(seconds / 4, static_cast<double>(bytes) * repeats, [&] {
      float total = 0;
      for (int i = 0; i < repeats; ++i) total += probes.read(lines.front().values, bytes / sizeof(float));
      return total;
    });
  };
  return {.flops_per_s = measure_flops(isa, seconds / 4),
          .l1_bytes_per_s = bandwidth(std::size_t{16} << 10, 64),
          .l2_bytes_per_s = bandwidth(std::size_t{256} << 10, 16),
          .memory_bytes_per_s = bandwidth(kLargest, 1)};
}

}  // namespace datasentinel::bench
