// Just enough of CUDA for a generated kernel to run on the CPU: every thread of one block is a thread here,
// and a barrier is a barrier. Included before the kernel's text.

#include <algorithm>
#include <barrier>
#include <cmath>
#include <cstring>
#include <limits>
#include <mutex>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(x)
#define EXTERN_SHARED(name) float* name = shim::shared.data()
#ifndef LANES
#define LANES 2
#endif
#ifndef THREADS
#define THREADS 4
#endif

struct alignas(16) float4 {
  float x, y, z, w;
};

namespace shim {
struct Index {
  int x = 0;
};
inline thread_local Index thread_index;
inline Index block_index;
inline Index grid_size;
inline std::vector<float> shared;
inline std::barrier<> barrier(THREADS);
}  // namespace shim

#define threadIdx shim::thread_index
#define blockIdx shim::block_index
#define gridDim shim::grid_size

inline void __syncthreads() { shim::barrier.arrive_and_wait(); }
inline void atomicMin(unsigned long long* target, unsigned long long value) {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  *target = std::min(*target, value);
}
inline float __int_as_float(int bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

namespace shim {
/// Runs `blocks` blocks one after the other. Shared memory starts as NaN, so that reading what was never
/// written shows.
template <typename Kernel>
void launch(Kernel kernel, int blocks, std::size_t shared_bytes) {
  grid_size.x = blocks;
  for (int block = 0; block < blocks; ++block) {
    block_index.x = block;
    shared.assign(shared_bytes / sizeof(float), std::numeric_limits<float>::quiet_NaN());
    std::vector<std::thread> threads;
    for (int i = 0; i < THREADS; ++i) {
      threads.emplace_back([=] {
        thread_index.x = i;
        kernel();
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
}
}  // namespace shim
