#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <functional>
#include <string>
#include <vector>

namespace datasentinel::bench {

/// One thing to time. `call` does the work once.
struct Contender {
  std::string name;
  std::function<void()> call;
  std::size_t calls_per_sample = 1;     ///< Short calls are timed in groups, which the clock can tell apart.
  std::vector<double> samples_us = {};  ///< Microseconds per call, one entry per sample.
  std::vector<double> rounds_us = {};   ///< The median sample of each round.
  std::vector<double> peaks_gflops = {};  ///< What the core could do at most, measured in each round.
};

inline double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

inline double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

inline double sample_us(const Contender& contender) {
  const double start = seconds_now();
  for (std::size_t i = 0; i < contender.calls_per_sample; ++i) contender.call();
  return 1e6 * (seconds_now() - start) / static_cast<double>(contender.calls_per_sample);
}

/// Warms a contender up and sets `calls_per_sample`; gives about how long a call takes in microseconds.
inline double calibrate(Contender& contender) {
  constexpr double sample_at_least_us = 20;
  constexpr double long_us = 1e4;
  contender.call();
  while (true) {
    const auto calls = static_cast<double>(contender.calls_per_sample);
    double call_us = sample_us(contender);
    if (call_us * calls < long_us) {  // A disturbance makes a short call look long.
      call_us = std::min({call_us, sample_us(contender), sample_us(contender)});
    }
    if (call_us * calls >= sample_at_least_us) return call_us;
    contender.calls_per_sample *= 2;
  }
}

/// Times the contenders in turn, round after round, for about `budget_s` in all, so that a change in the
/// machine's speed hits all alike; every other round goes backwards, so that nobody always follows the same
/// neighbour. There are 5 to 15 rounds: where five rounds of single calls take longer than the budget, they
/// take as long as they take. `peak_gflops` is asked before each round. The same way of measuring as
/// datasentinel.bench.measure.
inline void measure(std::vector<Contender>& contenders, double budget_s,
                    const std::function<double()>& peak_gflops) {
  constexpr int max_rounds = 15;
  std::vector<double> turns_s;
  double round_s = 0;
  for (auto& contender : contenders) {
    const double call_us = calibrate(contender);
    const auto turns = static_cast<double>(max_rounds * contenders.size());
    turns_s.push_back(std::max(1e-6 * call_us, budget_s / turns));
    round_s += turns_s.back();
  }
  const int rounds = static_cast<int>(std::clamp(budget_s / round_s, 5.0, static_cast<double>(max_rounds)));
  for (int round = 0; round < rounds; ++round) {
    const double peak = peak_gflops();
    for (std::size_t turn = 0; turn < contenders.size(); ++turn) {
      const std::size_t index = round % 2 == 0 ? turn : contenders.size() - 1 - turn;
      Contender& contender = contenders[index];
      std::vector<double> samples;
      const double start = seconds_now();
      do {
        samples.push_back(sample_us(contender));
      } while (seconds_now() - start < turns_s[index]);
      contender.rounds_us.push_back(median(samples));
      contender.peaks_gflops.push_back(peak);
      contender.samples_us.insert(contender.samples_us.end(), samples.begin(), samples.end());
    }
  }
}

}  // namespace datasentinel::bench
