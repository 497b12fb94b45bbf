// The roof: plausible numbers for every instruction set that runs here, within the time given.

#include <algorithm>
#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "check.h"
#include "roof/probe_sets.h"
#include "roof/roof.h"

namespace datasentinel {
namespace {

// No core of today does fewer than 0.05 or more than 2000 GFLOP/s; sanitizers slow the memory loops down.
constexpr double kLeast = 0.05;
constexpr double kMost = 2000;

/// Whether something holds at least once: other work on the core may spoil any one measurement.
bool holds_once(const std::function<bool()>& claim) {
  for (int attempt = 0; attempt < 20; ++attempt) {
    if (claim()) return true;
  }
  return false;
}

void every_instruction_set_gives_plausible_numbers() {
  const std::vector<roof::Roof> roofs = roof::measure_all(0.1);
  CHECK(!roofs.empty());
  CHECK(!roofs.empty() && roofs.back().isa == "portable");
  for (const roof::Roof& roof : roofs) {
    for (const double value : {roof.gflops, roof.l1_gb_s, roof.l2_gb_s, roof.memory_gb_s}) {
      CHECK(value > kLeast && value < kMost);
    }
    // A cache is never slower than memory.
    CHECK(holds_once([&] {
      const roof::Roof again = roof::measure(roof.isa, 0.03);
      return again.l1_gb_s > 0.7 * again.memory_gb_s;
    }));
  }
}

void wider_vectors_multiply_faster() {
  const std::vector<std::string> sets = roof::instruction_sets();
  const auto has_avx2 = std::find(sets.begin(), sets.end(), "avx2") != sets.end();
  if (!has_avx2) return;
  CHECK(holds_once(
      [] { return roof::measure_gflops("avx2", 0.02) > 1.2 * roof::measure_gflops("portable", 0.02); }));
}

void multiply_adds_are_really_done() {
  for (const roof::Probes& probes : roof::probe_sets()) {
    if (!probes.supported) continue;
    std::vector<float> seeds(roof::kSeeds, 1.0F);
    probes.multiply_add(3, 2.0F, 1.0F, seeds.data());
    CHECK(seeds.front() == 15.0F);  // ((1 * 2 + 1) * 2 + 1) * 2 + 1
    const auto touched = std::count(seeds.begin(), seeds.end(), 15.0F);
    CHECK(static_cast<double>(2 * touched) == probes.flops_per_round);
  }
}

void every_byte_is_read() {
  struct alignas(64) Block {
    int values[256];
  };
  for (const roof::Probes& probes : roof::probe_sets()) {
    if (!probes.supported) continue;
    for (std::size_t position = 0; position < 256; ++position) {
      Block block = {};
      CHECK(probes.read(&block, sizeof block) == 0);
      block.values[position] = 42;
      CHECK(probes.read(&block, sizeof block) == 42);
    }
  }
}

void takes_about_the_time_given() {
  const auto start = std::chrono::steady_clock::now();
  CHECK(roof::measure_gflops("portable", 0.01) > 0);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  CHECK(took.count() >= 0.01 && took.count() < 30);
}

void refuses_what_cannot_run() {
  CHECK_THROWS_WITH(ErrorCode::invalid_argument, "portable",
                    static_cast<void>(roof::measure_gflops("sse9", 0.01)));
  CHECK_THROWS(ErrorCode::invalid_argument, static_cast<void>(roof::measure("portable", 0)));
  CHECK_THROWS(ErrorCode::invalid_argument, static_cast<void>(roof::measure_all(-1)));
}

}  // namespace
}  // namespace datasentinel

int main() {
  using namespace datasentinel;
  every_instruction_set_gives_plausible_numbers();
  wider_vectors_multiply_faster();
  multiply_adds_are_really_done();
  every_byte_is_read();
  takes_about_the_time_given();
  refuses_what_cannot_run();
  return check::result();
}
