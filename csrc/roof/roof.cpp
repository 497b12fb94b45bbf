#include "roof/roof.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstddef>

#include "core/error.h"
#include "roof/probe_sets.h"

namespace datasentinel::roof {
namespace {

struct alignas(64) Line {
  std::array<std::byte, 64> bytes;
};

/// The size of a cache as the C library knows it, within reason, or `otherwise`.
std::size_t cache_bytes(int name, std::size_t otherwise) {
  const long bytes = sysconf(name);
  return bytes > 0 ? static_cast<std::size_t>(bytes) : otherwise;
}

std::size_t whole_reads(std::size_t bytes) { return bytes / 512 * 512; }

/// Memory to read from. The pages are written once, so that every one is real and of its own.
class Memory {
 public:
  Memory() : lines_(bytes() / sizeof(Line), Line{}) {}
  [[nodiscard]] const void* data() const noexcept { return lines_.data(); }

  [[nodiscard]] static std::size_t bytes() {
    constexpr std::size_t mib = std::size_t{1} << 20;
    static const std::size_t size =
        whole_reads(std::clamp(2 * cache_bytes(_SC_LEVEL3_CACHE_SIZE, 32 * mib), 64 * mib, 256 * mib));
    return size;
  }

 private:
  std::vector<Line> lines_;
};

/// Amounts per second: the best of as many runs as `seconds` allow, at least one.
template <typename Run>
double best_rate(double seconds, double amount, Run run) {
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  double best = 0;
  do {
    const auto start = Clock::now();
    run();
    best = std::max(best, amount / std::chrono::duration<double>(Clock::now() - start).count());
  } while (Clock::now() < end);
  return best;
}

double gflops(const Probes& probes, double seconds) {
  constexpr long rounds = 5000;
  std::array<float, kSeeds> seeds;
  seeds.fill(1.0F);
  return 1e-9 * best_rate(seconds, probes.flops_per_round * rounds,
                          [&] { probes.multiply_add(rounds, 1.0F, 1e-9F, seeds.data()); });
}

double read_gb_s(const Probes& probes, const Memory& memory, std::size_t bytes, double seconds) {
  // Several reads of a cache-sized block per look at the clock. The call goes through a pointer, so the
  // compiler cannot know that its result is not used.
  const std::size_t repeats = std::max<std::size_t>(1, (std::size_t{1} << 20) / bytes);
  return 1e-9 * best_rate(seconds, static_cast<double>(bytes * repeats), [&] {
           for (std::size_t i = 0; i < repeats; ++i) static_cast<void>(probes.read(memory.data(), bytes));
         });
}

Roof measure_with(const Probes& probes, const Memory& memory, double seconds) {
  const std::size_t l1 = whole_reads(cache_bytes(_SC_LEVEL1_DCACHE_SIZE, std::size_t{32} << 10) / 2);
  const std::size_t l2 = whole_reads(cache_bytes(_SC_LEVEL2_CACHE_SIZE, std::size_t{512} << 10) / 2);
  return {.isa = probes.isa,
          .gflops = gflops(probes, seconds / 4),
          .l1_gb_s = read_gb_s(probes, memory, l1, seconds / 4),
          .l2_gb_s = read_gb_s(probes, memory, l2, seconds / 4),
          .memory_gb_s = read_gb_s(probes, memory, Memory::bytes(), seconds / 4)};
}

std::vector<Probes> supported_sets() {
  std::vector<Probes> sets = probe_sets();
  std::erase_if(sets, [](const Probes& probes) { return !probes.supported; });
  return sets;
}

Probes probes_for(std::string_view isa) {
  std::string known;
  for (const Probes& probes : supported_sets()) {
    if (probes.isa == isa) return probes;
    known += (known.empty() ? "" : ", ") + std::string(probes.isa);
  }
  throw Error(ErrorCode::invalid_argument,
              "instruction set '" + std::string(isa) + "' cannot run here; those that can: " + known);
}

void check_seconds(double seconds) {
  if (!(seconds > 0 && std::isfinite(seconds))) {
    throw Error(ErrorCode::invalid_argument, "the time to measure must be finite and greater than 0");
  }
}

}  // namespace

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const Probes& probes : supported_sets()) names.emplace_back(probes.isa);
  return names;
}

double measure_gflops(std::string_view isa, double seconds) {
  check_seconds(seconds);
  return gflops(probes_for(isa), seconds);
}

Roof measure(std::string_view isa, double seconds) {
  check_seconds(seconds);
  return measure_with(probes_for(isa), Memory(), seconds);
}

std::vector<Roof> measure_all(double seconds) {
  check_seconds(seconds);
  const std::vector<Probes> sets = supported_sets();
  const Memory memory;
  std::vector<Roof> roofs;
  roofs.reserve(sets.size());
  for (const Probes& probes : sets) {
    roofs.push_back(measure_with(probes, memory, seconds / static_cast<double>(sets.size())));
  }
  return roofs;
}

}  // namespace datasentinel::roof
