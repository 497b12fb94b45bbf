#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <mutex>
#include <span>

#include "backends/fused/thread_pool.h"

namespace datasentinel::fused_cuda {

/// A piece of host memory to be copied.
struct Copy {
  char* to = nullptr;
  const char* from = nullptr;
  std::size_t bytes = 0;
  bool is_for_device = false;  ///< No core reads it then.
  void run(std::size_t first, std::size_t most) const noexcept;
};

/// What is copied at a time: rows into page-locked memory and results out of it.
class Copies {
 public:
  void add(float* to, const float* from, std::size_t values, bool is_for_device) noexcept {
    all_[count_++] = {.to = reinterpret_cast<char*>(to),
                      .from = reinterpret_cast<const char*>(from),
                      .bytes = values * sizeof(float),
                      .is_for_device = is_for_device};
  }
  [[nodiscard]] std::span<const Copy> all() const noexcept { return {all_.data(), count_}; }

 private:
  std::array<Copy, 4> all_;
  std::size_t count_ = 0;
};

/// Copies by a few threads, which are made when there is enough to do for them.
class Copiers {
 public:
  void run(const Copies& copies);

 private:
  std::once_flag made_;
  std::unique_ptr<fused::ThreadPool> threads_;
};

}  // namespace datasentinel::fused_cuda
