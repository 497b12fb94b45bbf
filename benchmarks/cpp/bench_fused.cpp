// bench_fused MODEL.onnx [SECONDS_PER_BATCH_SIZE] - times the fused backend on one core, each batch size next
// to the core's multiply-add peak measured just before it. Times are medians of single calls of
// Session::run (grouped where a call is shorter than the clock can tell); input and output buffers are
// reused.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "backends/fused/backend.h"
#include "core/error.h"
#include "roof/roof.h"

namespace {

using Clock = std::chrono::steady_clock;
using namespace datasentinel;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::string fact(const Facts& facts, std::string_view name) {
  for (const auto& [key, value] : facts) {
    if (key == name) return value;
  }
  return "0";
}

double median_call(Session& session, ConstRows rows, Outputs outputs, double seconds) {
  session.run(rows, outputs);
  auto start = Clock::now();
  session.run(rows, outputs);
  const int calls = std::clamp(static_cast<int>(20e-6 / std::max(seconds_since(start), 1e-9)), 1, 1000);
  std::vector<double> times;
  const auto begin = Clock::now();
  while (times.size() < 5 || seconds_since(begin) < seconds) {
    start = Clock::now();
    for (int i = 0; i < calls; ++i) session.run(rows, outputs);
    times.push_back(seconds_since(start) / calls);
  }
  std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2), times.end());
  return times[times.size() / 2];
}

int report(const char* path, double seconds) {
  std::ifstream file(path, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const auto session =
      make_fused_backend()->load({.name = path, .onnx = std::as_bytes(std::span(bytes))}, SessionOptions());
  const Facts facts = session->facts();
  for (const auto& [key, value] : facts) std::printf("%s: %s\n", key.c_str(), value.c_str());
  const std::string isa = fact(facts, "instruction set");
  const double flops_per_row = 2 * std::stod(fact(facts, "multiply-adds per row"));
  const roof::Roof limit = roof::measure(isa, 2);
  std::printf("one core: %.1f GFLOP/s, L1 %.0f GB/s, L2 %.0f GB/s, memory %.0f GB/s\n", limit.gflops,
              limit.l1_gb_s, limit.l2_gb_s, limit.memory_gb_s);

  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  const std::size_t dim = session->input_dim();
  std::vector<float> input(8192 * dim);
  std::generate(input.begin(), input.end(), [&] { return normal(random); });
  std::vector<float> scores(8192);
  std::printf("%6s %12s %12s %10s %8s\n", "batch", "median us", "rows/s", "GFLOP/s", "of peak");
  for (const std::size_t batch : {1, 2, 3, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192}) {
    const double peak_gflops = roof::measure_gflops(isa, 0.02);
    const double time = median_call(*session, {.data = input.data(), .rows = batch, .columns = dim},
                                    {.scores = scores.data()}, seconds);
    const double rows_per_s = static_cast<double>(batch) / time;
    std::printf("%6zu %12.3f %12.0f %10.1f %7.1f%%\n", batch, time * 1e6, rows_per_s,
                rows_per_s * flops_per_row / 1e9, 100 * rows_per_s * flops_per_row / 1e9 / peak_gflops);
  }
  return EXIT_SUCCESS;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: bench_fused MODEL.onnx [SECONDS_PER_BATCH_SIZE]\n");
    return EXIT_FAILURE;
  }
  try {
    return report(argv[1], argc > 2 ? std::strtod(argv[2], nullptr) : 0.2);
  } catch (const datasentinel::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return EXIT_FAILURE;
  }
}
