// Settings of the simulated device, and errors on demand.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <map>
#include <sstream>
#include <string>

namespace cuda_on_cpu {

inline std::string setting(const char* name, const char* otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : text;
}

inline long number(const char* name, long otherwise) {
  return std::stol(setting(name, std::to_string(otherwise).c_str()));
}

/// For what is undefined on a real device.
[[noreturn]] inline void die(const std::string& what) {
  std::fprintf(stderr, "cuda_on_cpu: %s\n", what.c_str());
  std::abort();
}

/// Counts calls and fails those that it was told to: "cuLaunchKernel:3=719,*:40=2" is the third launch and
/// the fortieth call of any function.
class Faults {
 public:
  explicit Faults(const std::string& plan) { set(plan); }

  /// Starts counting anew.
  void set(const std::string& plan) {
    calls_.clear();
    errors_.clear();
    std::istringstream entries(plan);
    for (std::string entry; std::getline(entries, entry, ',');) {
      const std::size_t colon = entry.find(':');
      const std::size_t equals = entry.find('=');
      if (colon == std::string::npos || equals == std::string::npos) die("no fault: '" + entry + "'");
      const std::string call = entry.substr(colon + 1, equals - colon - 1);
      errors_[entry.substr(0, colon)][std::stol(call)] = std::stoi(entry.substr(equals + 1));
    }
  }

  /// The error that this call of `function` must give, or 0.
  [[nodiscard]] int next(const std::string& function) {
    const int any = due("*");
    const int own = due(function);
    return own != 0 ? own : any;
  }

  [[nodiscard]] long calls(const std::string& function) const {
    const auto found = calls_.find(function);
    return found == calls_.end() ? 0 : found->second;
  }

 private:
  [[nodiscard]] int due(const std::string& function) {
    const long call = ++calls_[function];
    const auto planned = errors_.find(function);
    if (planned == errors_.end()) return 0;
    const auto found = planned->second.find(call);
    return found == planned->second.end() ? 0 : found->second;
  }

  std::map<std::string, long> calls_;
  std::map<std::string, std::map<long, int>> errors_;
};

}  // namespace cuda_on_cpu
