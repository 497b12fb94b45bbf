#include "core/usable_cores.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

namespace datasentinel {
namespace {

#if defined(__linux__)
/// The least quota of this process's group and of those that it is in.
unsigned quota(unsigned most) {
  const std::filesystem::path root = "/sys/fs/cgroup";
  const auto limit = [&most](const std::filesystem::path& group) {
    std::ifstream file(group / "cpu.max");
    most = quota_of(file, most);
  };
  std::ifstream file("/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("0::/")) continue;  // Version 2's only line.
    std::filesystem::path group = root / line.substr(4);
    for (; group != root && group.has_relative_path(); group = group.parent_path()) {
      limit(group);
    }
  }
  limit(root);
  return most;
}
#endif

}  // namespace

unsigned quota_of(std::istream& cpu_max, unsigned most) {
  double quota = 0;
  double period = 0;
  if (!(cpu_max >> quota >> period) || quota <= 0 || period <= 0) return most;
  return static_cast<unsigned>(std::clamp(std::ceil(quota / period), 1.0, static_cast<double>(most)));
}

unsigned usable_cores() {
  unsigned cores = std::max(std::thread::hardware_concurrency(), 1U);
#if defined(__linux__)
  cpu_set_t mask;
  if (sched_getaffinity(0, sizeof mask, &mask) == 0) {
    cores = std::clamp(static_cast<unsigned>(CPU_COUNT(&mask)), 1U, cores);
  }
  cores = quota(cores);
#endif
  return cores;
}

}  // namespace datasentinel
