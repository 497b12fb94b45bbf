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
  std::vector<double> samples_us = {};  ///< Microseconds per call, one entry per round.
};

inline double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

inline double quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  return values[static_cast<std::size_t>(q * static_cast<double>(values.size() - 1) + 0.5)];
}

/// Times the contenders in turn, round after round, so that a change in the machine's speed hits all alike.
/// Each turn repeats the call until `turn_s` have passed; a round contributes one mean per contender.
inline void measure(std::vector<Contender>& contenders, int rounds, double turn_s) {
  std::vector<std::size_t> repeats;
  for (auto& contender : contenders) {
    contender.call();  // Warm-up.
    const double start = seconds_now();
    std::size_t count = 0;
    while (seconds_now() - start < turn_s) {
      contender.call();
      ++count;
    }
    repeats.push_back(std::max<std::size_t>(count, 1));
  }
  for (int round = 0; round < rounds; ++round) {
    for (std::size_t i = 0; i < contenders.size(); ++i) {
      const double start = seconds_now();
      for (std::size_t repeat = 0; repeat < repeats[i]; ++repeat) contenders[i].call();
      contenders[i].samples_us.push_back(1e6 * (seconds_now() - start) / static_cast<double>(repeats[i]));
    }
  }
}

}  // namespace datasentinel::bench
