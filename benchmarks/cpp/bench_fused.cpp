// bench_fused SECONDS MODEL.onnx[:PRECISION][@THREADS]... - times the fused backend, each batch size for
// about so many seconds a model, the models in turns. Times are medians of rounds of calls of Session::run,
// whose input and output buffers are reused, and the best of all calls; "x first" is the first model's time
// by this one's in the same round, median over the rounds, and of the best; "of peak" is the arithmetic of
// the dense layers beside one core's multiply-add peak in float32 measured in each round.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "backends/fused/backend.h"
#include "core/error.h"
#include "measure.h"
#include "roof/roof.h"

namespace {

using namespace datasentinel;

std::string fact(const Facts& facts, std::string_view name) {
  for (const auto& [key, value] : facts) {
    if (key == name) return value;
  }
  return "0";
}

struct Subject {
  std::string name;
  std::unique_ptr<Session> session;
  std::vector<float> input;
  double flops_per_row;
};

constexpr std::size_t kMostRows = 8192;
/// Calls of cheap models last too short to be worth a second thread, unless they have more rows.
constexpr std::size_t kMostCheapRows = 65536;
constexpr double kCheapFlopsPerRow = 2000;

Subject load(const std::string& argument) {
  const std::size_t at = argument.rfind('@');
  const int threads = at == std::string::npos ? 1 : std::atoi(argument.c_str() + at + 1);
  const std::string model = argument.substr(0, at);
  const std::size_t colon = model.find(':');
  const std::string path = model.substr(0, colon);
  const std::string precision = colon == std::string::npos ? "float32" : model.substr(colon + 1);
  std::ifstream file(path, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  Subject subject{
      .name = argument,
      .session = make_fused_backend()->load({.name = path, .onnx = std::as_bytes(std::span(bytes))},
                                            {.num_threads = threads, .precision = precision}),
      .input = {},
      .flops_per_row = 0};
  const Facts facts = subject.session->facts();
  std::printf("%s\n", argument.c_str());
  for (const auto& [key, value] : facts) std::printf("  %s: %s\n", key.c_str(), value.c_str());
  subject.flops_per_row = 2 * std::stod(fact(facts, "multiply-adds per row"));
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  const std::size_t most_rows = subject.flops_per_row < kCheapFlopsPerRow ? kMostCheapRows : kMostRows;
  subject.input.resize(most_rows * subject.session->input_dim());
  std::generate(subject.input.begin(), subject.input.end(), [&] { return normal(random); });
  return subject;
}

/// The median over the rounds of `of` the two contenders' times.
template <typename Of>
double median_of(const bench::Contender& first, const bench::Contender& contender, Of of) {
  std::vector<double> values;
  for (std::size_t round = 0; round < contender.rounds_us.size(); ++round) {
    values.push_back(of(first.rounds_us[round], contender.rounds_us[round], contender.peaks_gflops[round]));
  }
  return bench::median(values);
}

void report(const std::vector<Subject>& subjects, double seconds) {
  const std::string isa = fact(subjects[0].session->facts(), "instruction set");
  const roof::Roof limit = roof::measure(isa, 2);
  std::printf("one core: %.1f GFLOP/s, L1 %.0f GB/s, L2 %.0f GB/s, memory %.0f GB/s\n", limit.gflops,
              limit.l1_gb_s, limit.l2_gb_s, limit.memory_gb_s);
  std::printf("%6s %12s %12s %12s %8s %8s %8s  model\n", "batch", "median us", "best us", "rows/s", "x first",
              "of best", "of peak");
  std::size_t most_rows = kMostCheapRows;
  for (const Subject& subject : subjects) {
    most_rows = std::min(most_rows, subject.input.size() / subject.session->input_dim());
  }
  std::vector<float> scores(most_rows);
  for (std::size_t batch = 1; batch <= most_rows; batch *= 2) {
    std::vector<bench::Contender> contenders;
    for (const Subject& subject : subjects) {
      contenders.push_back(
          {.name = subject.name, .call = [&] {
             subject.session->run(
                 {.data = subject.input.data(), .rows = batch, .columns = subject.session->input_dim()},
                 {.scores = scores.data()});
           }});
    }
    bench::measure(contenders, seconds * static_cast<double>(subjects.size()),
                   [&] { return roof::measure_gflops(isa, 2e-3); });
    for (std::size_t i = 0; i < contenders.size(); ++i) {
      const bench::Contender& contender = contenders[i];
      const double time_us = bench::median(contender.rounds_us);
      const double best_us = std::ranges::min(contender.samples_us);
      const double flops = subjects[i].flops_per_row * static_cast<double>(batch);
      std::printf(
          "%6zu %12.3f %12.3f %12.0f %8.2f %8.2f %7.1f%%  %s\n", batch, time_us, best_us,
          static_cast<double>(batch) * 1e6 / time_us,
          median_of(contenders[0], contender, [](double first, double own, double) { return first / own; }),
          std::ranges::min(contenders[0].samples_us) / best_us,
          100 * median_of(contenders[0], contender,
                          [&](double, double own, double peak) { return flops / (1e3 * own * peak); }),
          contender.name.c_str());
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: bench_fused SECONDS MODEL.onnx[:PRECISION][@THREADS]...\n");
    return EXIT_FAILURE;
  }
  try {
    std::vector<Subject> subjects;
    for (int i = 2; i < argc; ++i) subjects.push_back(load(argv[i]));
    report(subjects, std::strtod(argv[1], nullptr));
  } catch (const datasentinel::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return EXIT_FAILURE;
  }
  return EXIT_SUCCESS;
}
