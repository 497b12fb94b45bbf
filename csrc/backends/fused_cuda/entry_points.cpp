#include "backends/fused_cuda/entry_points.h"

#include <algorithm>

namespace datasentinel::fused_cuda {
namespace {

EntryPoint entry_point(const cuda::Driver& driver, void* module, const Kernel& kernel) {
  EntryPoint entry{.kernel = kernel, .function = nullptr, .most_blocks = 1};
  driver.check(driver.cuModuleGetFunction(&entry.function, module, kernel.name.c_str()),
               "finding the kernel");
  driver.check(driver.cuFuncSetAttribute(entry.function, cuda::kFunctionSharedBytes,
                                         static_cast<int>(kernel.shared_bytes)),
               "reserving shared memory");
  int blocks = 0;
  driver.check(driver.cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, entry.function, kernel.threads,
                                                                  kernel.shared_bytes),
               "asking how many blocks fit");
  entry.most_blocks = static_cast<unsigned>(std::max(blocks, 1) * driver.multiprocessors());
  return entry;
}

/// None where NVRTC was too old for it, or the part of the device that is ours has no room for a cluster.
std::optional<EntryPoint> spread_entry_point(const cuda::Driver& driver, void* module, const Kernel& kernel) {
  void* function = nullptr;
  if (driver.cuModuleGetFunction(&function, module, kernel.name.c_str()) == cuda::kNotFound) return {};
  EntryPoint entry = entry_point(driver, module, kernel);
  // As if each multiprocessor had room for one block of it.
  const int clusters = std::max(driver.multiprocessors() / kernel.blocks, 1);
  const int most =
      driver.most_clusters(entry.function, {.gridDimX = static_cast<unsigned>(clusters * kernel.blocks),
                                            .blockDimX = static_cast<unsigned>(kernel.threads),
                                            .sharedMemBytes = static_cast<unsigned>(kernel.shared_bytes)});
  if (most <= 0) return {};
  entry.most_blocks = static_cast<unsigned>(std::min(most, clusters));
  return entry;
}

}  // namespace

EntryPoints::EntryPoints(const cuda::Driver& driver, void* module, const Kernels& kernels)
    : few_(entry_point(driver, module, kernels.few)), bulk_(entry_point(driver, module, kernels.bulk)) {
  // As long as each multiprocessor has one block of a few rows at most, nothing is done sooner.
  few_rows_ = static_cast<std::size_t>(kernels.few.rows) * static_cast<std::size_t>(driver.multiprocessors());
  if (!kernels.spread || !driver.has_clusters()) return;
  spread_ = spread_entry_point(driver, module, *kernels.spread);
  // What an H100 does with its clusters twice takes less than one block takes once.
  if (spread_) spread_rows_ = static_cast<std::size_t>(spread_->kernel.rows) * spread_->most_blocks;
}

std::size_t EntryPoints::most_warps() const noexcept {
  const std::size_t most = std::max(few_.warps(few_.most_blocks), bulk_.warps(bulk_.most_blocks));
  return spread_ ? std::max(most, spread_->warps(spread_->most_blocks)) : most;
}

}  // namespace datasentinel::fused_cuda
