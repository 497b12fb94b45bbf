// Included after a kernel's text: makes its entry points callable with the arguments of cuLaunchKernel.
#pragma once

#include <type_traits>
#include <utility>

#include "image.h"

namespace cuda_on_cpu {

template <auto kFunction>
struct Describe;

template <typename... Arguments, void (*kFunction)(Arguments...)>
struct Describe<kFunction> {
  static constexpr std::size_t kSizes[] = {sizeof(Arguments)...};
  static constexpr bool kIsPointer[] = {std::is_pointer_v<Arguments>...};

  static void run(int blocks, int threads, std::size_t shared_bytes, int cluster_size, void** arguments) {
    const auto with = [&]<std::size_t... kIndex>(std::index_sequence<kIndex...>) {
      shim::launch([=] { kFunction(*static_cast<std::remove_cv_t<Arguments>*>(arguments[kIndex])...); },
                   blocks, threads, shared_bytes, cluster_size);
    };
    with(std::index_sequence_for<Arguments...>{});
  }

  template <int ClusterSize>
  static constexpr EntryPoint kEntryPoint{sizeof...(Arguments), kSizes, kIsPointer, ClusterSize, run};
};

}  // namespace cuda_on_cpu

#define CUDA_ON_CPU_ENTRY_POINT(name, cluster_size)                                                    \
  extern "C" __attribute__((visibility("default"))) const cuda_on_cpu::EntryPoint entry_point_##name = \
      cuda_on_cpu::Describe<&name>::kEntryPoint<cluster_size>;
