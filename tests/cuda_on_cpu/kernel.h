// Just enough of CUDA for a generated kernel to run on the CPU. Included before the kernel's text.
//
// A block's threads (and those of all blocks of a cluster) take turns (each has a stack of its
// own) and go on at a barrier only when all have come. Each runs as far as it gets before the next one
// starts, in ascending order in one block and in descending order in the next, and shared memory starts as
// NaN: a missing barrier shows as a wrong result.

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define EXTERN_SHARED(name) float* name = shim::block->shared.data()

struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

namespace shim {

constexpr int kWarp = 32;
constexpr int kGroup = 4 * kWarp;
// What a block has of shared memory begins after what the system keeps of it; lines are what descriptors
// count.
constexpr std::size_t kSharedStart = 1024;
constexpr std::size_t kLineBytes = 16;

/// The threads that wait for each other: a block's or a warp's.
struct Meeting {
  int members = 0;
  int arrived = 0;
  unsigned long round = 0;
};

struct Index {
  int x = 0;
};

struct Thread {
  ucontext_t start{};
  jmp_buf place;  // Where it goes on, once started: unlike swapcontext, a jump asks nothing of the system.
  Index index;
  bool started = false;
  bool done = false;
  std::vector<std::size_t> written;    ///< Lines of shared memory that it wrote since its last fence.
  const Meeting* waits_for = nullptr;  ///< The end of this round of it.
  unsigned long round = 0;
  [[nodiscard]] bool can_go_on() const noexcept {
    return !done && (waits_for == nullptr || waits_for->round != round);
  }
};

/// What a lane gives to and takes from an instruction of the whole warp.
struct Lane {
  unsigned a[4], b[2];
  float d[4];
  unsigned value;
  // Of an instruction of the warpgroup.
  float* group_d;
  const unsigned* group_a;
  unsigned long long matrix;
  int columns;
};

[[noreturn]] inline void die(const char* what) {
  std::fprintf(stderr, "%s\n", what);
  std::abort();
}

struct Cluster;

struct Block {
  std::vector<Thread> threads;
  std::vector<float> shared;
  Meeting all;
  std::vector<Meeting> warps, groups;
  std::vector<Lane> lanes;
  std::vector<char> hidden;  ///< Lines of shared memory that products of a warpgroup do not see as they are.
  Index block_index, grid_size;
  Thread* running = nullptr;
  jmp_buf scheduler;
  std::function<void()> kernel;
  Cluster* cluster = nullptr;
};

/// Blocks that wait for each other and write to each other's shared memory.
struct Cluster {
  std::vector<Block> blocks;
  Meeting all;
  unsigned long sent = 0;
};

inline thread_local Block* block = nullptr;

inline void yield() {
  if (_setjmp(block->running->place) == 0) _longjmp(block->scheduler, 1);
}

/// Lets a thread go on until it waits or ends.
inline void resume(Thread& thread) {
  block->running = &thread;
  if (_setjmp(block->scheduler) != 0) return;
  if (thread.started) _longjmp(thread.place, 1);
  thread.started = true;
  setcontext(&thread.start);
}

constexpr std::size_t kStack = std::size_t{128} << 10;
/// Kept for the next launch.
inline thread_local std::vector<std::unique_ptr<char[]>> stacks;

/// Waits until all members have come; the last one does `work` first.
template <typename Work>
void meet(Meeting& meeting, Work work) {
  const unsigned long round = meeting.round;
  if (++meeting.arrived == meeting.members) {
    work();
    meeting.arrived = 0;
    ++meeting.round;
    return;
  }
  block->running->waits_for = &meeting;
  block->running->round = round;
  yield();  // Until the round has ended.
  block->running->waits_for = nullptr;
}

inline int thread_number() { return block->running->index.x; }
inline Lane* warp_lanes() { return &block->lanes[static_cast<std::size_t>(thread_number() / kWarp * kWarp)]; }
inline Lane& own_lane() { return block->lanes[static_cast<std::size_t>(thread_number())]; }
inline Meeting& own_warp() { return block->warps[static_cast<std::size_t>(thread_number() / kWarp)]; }

inline void thread_main() {
  block->kernel();
  block->running->done = true;
  _longjmp(block->scheduler, 1);
}

/// Makes a block ready to run, on stacks from `first_stack` on.
inline void prepare(Block& state, int number, int count, std::size_t shared_bytes, std::size_t first_stack) {
  state.block_index.x = number;
  state.shared.assign(shared_bytes / sizeof(float), std::numeric_limits<float>::quiet_NaN());
  state.all = {.members = count};
  state.warps.assign(static_cast<std::size_t>((count + kWarp - 1) / kWarp), Meeting{.members = kWarp});
  // The last of them may lack warps; then its products are undefined.
  state.groups.assign(static_cast<std::size_t>((count + kGroup - 1) / kGroup), Meeting{.members = kGroup});
  state.hidden.assign(shared_bytes / kLineBytes + 1, 0);
  state.lanes.resize(static_cast<std::size_t>(count));
  state.threads.resize(static_cast<std::size_t>(count));
  for (int i = 0; i < count; ++i) {
    Thread& thread = state.threads[static_cast<std::size_t>(i)];
    thread.index.x = i;
    thread.started = thread.done = false;
    thread.written.clear();
    thread.waits_for = nullptr;
    getcontext(&thread.start);
    thread.start.uc_stack.ss_sp = stacks[first_stack + static_cast<std::size_t>(i)].get();
    thread.start.uc_stack.ss_size = kStack;
    makecontext(&thread.start, thread_main, 0);
  }
}

inline unsigned long progress_of(const Block& state) {
  const auto steps = [](const Meeting& meeting) {
    return meeting.round + static_cast<unsigned long>(meeting.arrived);
  };
  unsigned long sum = steps(state.all);
  for (const Meeting& warp : state.warps) sum += steps(warp);
  for (const Meeting& group : state.groups) sum += steps(group);
  return sum;
}

/// Lets each thread of a block that can go on do so once; how many have ended.
inline int take_turns(Block& state) {
  block = &state;
  int ended = 0;
  const int count = static_cast<int>(state.threads.size());
  for (int turn = 0; turn < count; ++turn) {
    const bool ascending = state.block_index.x % 2 == 0;
    Thread& thread = state.threads[static_cast<std::size_t>(ascending ? turn : count - 1 - turn)];
    if (!thread.can_go_on()) continue;
    resume(thread);
    if (thread.done) ++ended;
  }
  return ended;
}

/// Runs `blocks` blocks of `count` threads, one cluster of `cluster_size` after the other.
template <typename Kernel>
void launch(Kernel kernel, int blocks, int count, std::size_t shared_bytes, int cluster_size = 1) {
  while (stacks.size() < static_cast<std::size_t>(cluster_size * count))
    stacks.emplace_back(new char[kStack]);
  for (int first = 0; first < blocks; first += cluster_size) {
    Cluster cluster;
    cluster.blocks = std::vector<Block>(static_cast<std::size_t>(cluster_size));
    cluster.all.members = cluster_size * count;
    for (int i = 0; i < cluster_size; ++i) {
      Block& state = cluster.blocks[static_cast<std::size_t>(i)];
      state.grid_size.x = blocks;
      state.kernel = kernel;
      state.cluster = &cluster;
      prepare(state, first + i, count, shared_bytes, static_cast<std::size_t>(i * count));
    }
    const auto progress = [&] {
      unsigned long sum = cluster.sent + cluster.all.round + static_cast<unsigned long>(cluster.all.arrived);
      for (const Block& state : cluster.blocks) sum += progress_of(state);
      return sum;
    };
    for (int left = cluster_size * count; left > 0;) {
      const unsigned long before = progress();
      int ended = 0;
      for (Block& state : cluster.blocks) ended += take_turns(state);
      left -= ended;
      if (ended == 0 && progress() == before) {
        die("threads wait for each other at different barriers");
      }
    }
  }
  block = nullptr;
}

inline float float_of(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
inline unsigned bits_of(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float from_bf16(unsigned half) { return float_of(half << 16); }
inline unsigned to_bf16(float x) {
  const unsigned bits = bits_of(x);
  if (std::isnan(x)) return 0x7fffU;
  return (bits + 0x7fffU + (bits >> 16 & 1U)) >> 16;
}
inline float from_f16(unsigned half) {
  const int exponent = static_cast<int>(half >> 10 & 31U);
  const float fraction = static_cast<float>(half & 1023U);
  const float size = exponent == 0    ? std::ldexp(fraction, -24)
                     : exponent == 31 ? (fraction == 0 ? INFINITY : NAN)
                                      : std::ldexp(1024 + fraction, exponent - 25);
  return (half & 0x8000U) != 0 ? -size : size;
}
inline unsigned to_f16(float x) {
  const unsigned sign = std::signbit(x) ? 0x8000U : 0U;
  const float size = std::fabs(x);
  if (std::isnan(x)) return 0x7fffU;
  if (size == 0) return sign;
  if (size >= 65520) return sign | 0x7c00U;
  // The step between neighbours; nearbyint rounds ties to even.
  int exponent = 0;
  std::frexp(size, &exponent);
  const int step = std::max(exponent - 11, -24);
  const float steps = std::nearbyint(std::ldexp(size, -step));
  // A carry into the next binade is the right encoding, too.
  return sign | (static_cast<unsigned>(steps) + (step == -24 ? 0U : static_cast<unsigned>(step + 24) << 10));
}

/// One instruction of the tensor cores for a whole warp, after the PTX ISA: in lane 4 g + t, element e of a
/// fragment lies in row g or g + 8 and column 2 t or 2 t + 1 (m16n8k16) or t (m16n8k8) of its matrix.
template <int Columns, typename Element>
void multiply(float* d, const unsigned* a, const unsigned* b, Element element) {
  constexpr int kPerRegister = Columns / 8;  // Values of a row in one register.
  Lane& own = own_lane();
  std::copy_n(a, 4, own.a);
  std::copy_n(b, 2, own.b);
  std::copy_n(d, 4, own.d);
  meet(own_warp(), [&] {
    Lane* const lanes = warp_lanes();
    float left[16][Columns];
    float right[Columns][8];
    for (int lane = 0; lane < kWarp; ++lane) {
      const int g = lane / 4;
      const int t = lane % 4;
      for (int i = 0; i < 4; ++i) {
        for (int e = 0; e < kPerRegister; ++e) {
          left[g + 8 * (i % 2)][t * kPerRegister + e + (i / 2) * Columns / 2] = element(lanes[lane].a[i], e);
        }
      }
      for (int i = 0; i < 2; ++i) {
        for (int e = 0; e < kPerRegister; ++e) {
          right[t * kPerRegister + e + i * Columns / 2][g] = element(lanes[lane].b[i], e);
        }
      }
    }
    for (int lane = 0; lane < kWarp; ++lane) {
      for (int i = 0; i < 4; ++i) {
        const int row = lane / 4 + 8 * (i / 2);
        const int column = 2 * (lane % 4) + i % 2;
        float sum = lanes[lane].d[i];
        for (int k = 0; k < Columns; ++k) sum += left[row][k] * right[k][column];
        lanes[lane].d[i] = sum;
      }
    }
  });
  std::copy_n(own.d, 4, d);
}

inline std::size_t shared_offset(const void* memory) {
  return static_cast<std::size_t>(static_cast<const char*>(memory) -
                                  reinterpret_cast<const char*>(block->shared.data()));
}

/// The bytes that a descriptor's line starts, after the PTX ISA's matrix descriptor: in units of 16 bytes the
/// matrix's start, the distance of core matrices along the inputs and along the columns.
inline const unsigned* line_of(unsigned long long descriptor, std::size_t along_inputs,
                               std::size_t along_columns, std::size_t column) {
  if ((descriptor & ~0x3fff'3fff'3fffULL) != 0)
    die("a matrix descriptor with other bits than lines and distances");
  const auto field = [&](int bit) { return static_cast<std::size_t>(descriptor >> bit & 0x3fffU); };
  const std::size_t line = field(0) + along_inputs * field(16) + along_columns * field(32) + column;
  const std::size_t first = kSharedStart / kLineBytes;
  if (line < first || (line + 1 - first) * kLineBytes > block->shared.size() * sizeof(float)) {
    die("a matrix descriptor beyond shared memory");
  }
  if (block->hidden[line - first] != 0) die("a product of what no fence has shown to it");
  return reinterpret_cast<const unsigned*>(block->shared.data()) +
         (line - first) * kLineBytes / sizeof(unsigned);
}

/// Multiplications of a warpgroup and the wait for them: each of its four warps hands over the operands of 16
/// rows as for m16n8k16 or m16n8k8, and gets the sums of all columns, of eight after eight as from those. The
/// right operands are core matrices of 8 columns of 16 bytes each; after one multiplication's come the next
/// one's.
template <int Columns, int Steps, int Inputs, typename Element>
void multiply_group(float* d, const unsigned* a, unsigned long long matrix, Element element) {
  static_assert(Columns % 8 == 0 && Columns <= 256);
  constexpr int kPerRegister = Inputs / 8;
  const int first = thread_number() / kGroup * kGroup;
  if (first + kGroup > static_cast<int>(block->threads.size())) die("a warpgroup of fewer than four warps");
  Lane& own = own_lane();
  own.group_d = d;
  own.group_a = a;
  own.matrix = matrix;
  own.columns = Columns;
  static const bool is_wrong = std::getenv("CUDA_ON_CPU_WRONG_WGMMA") != nullptr;
  meet(block->groups[static_cast<std::size_t>(first / kGroup)], [&] {
    Lane* const lanes = &block->lanes[static_cast<std::size_t>(first)];
    for (int lane = 0; lane < kGroup; ++lane) {
      if (lanes[lane].matrix != matrix || lanes[lane].columns != Columns) die("warps of a group that differ");
    }
    for (int step = 0; step < Steps; ++step) {
      const unsigned long long here = matrix + static_cast<unsigned long long>(step * Columns * 32 / 16);
      std::vector<float> right(static_cast<std::size_t>(Inputs * Columns));
      for (int column = 0; column < Columns; ++column) {
        for (int k = 0; k < Inputs; ++k) {
          const int place = k / kPerRegister;  // Of 4 bytes, of which a core matrix has four in a row.
          const unsigned* line =
              line_of(here, static_cast<std::size_t>(place / 4), static_cast<std::size_t>(column / 8),
                      static_cast<std::size_t>(column % 8));
          right[static_cast<std::size_t>(k * Columns + column)] = element(line[place % 4], k % kPerRegister);
        }
      }
      for (int thread = 0; thread < kGroup; ++thread) {
        const int warp = thread / kWarp * kWarp;
        for (int i = 0; i < Columns / 2; ++i) {
          const int row = thread % kWarp / 4 + 8 * (i % 4 / 2);
          const int column = i / 4 * 8 + 2 * (thread % 4) + i % 2;
          float sum = lanes[thread].group_d[i];
          for (int k = 0; k < Inputs; ++k) {
            const int half = k / (Inputs / 2);
            const int lane = warp + row % 8 * 4 + k % (Inputs / 2) / kPerRegister;
            const unsigned word = lanes[lane].group_a[4 * step + 2 * half + row / 8];
            sum += element(word, k % kPerRegister) * right[static_cast<std::size_t>(k * Columns + column)];
          }
          lanes[thread].group_d[i] = is_wrong ? sum + 1 : sum;
        }
      }
    }
  });
}

inline float bf16_of(unsigned pair, int e) { return from_bf16(pair >> 16 * e & 0xffffU); }
inline float fp16_of(unsigned pair, int e) { return from_f16(pair >> 16 * e & 0xffffU); }
inline float tf32_of(unsigned value, int) { return float_of(value & ~0x1fffU); }

}  // namespace shim

#define threadIdx shim::block->running->index
#define blockIdx shim::block->block_index
#define gridDim shim::block->grid_size

inline void __syncthreads() {
  shim::meet(shim::block->all, [] {});
}
inline void __syncwarp() {
  shim::meet(shim::own_warp(), [] {});
}
// What the prelude writes in PTX for clusters. An arrival is the number of bytes that are still expected.
inline void expect(unsigned long long* arrival, unsigned bytes) { *arrival = bytes; }
inline void meet_cluster() {
  shim::meet(shim::block->cluster->all, [] {});
}
template <typename T>
T* in_block(int number, T* memory) {
  const auto* const own = reinterpret_cast<char*>(shim::block->shared.data());
  auto* const other =
      reinterpret_cast<char*>(shim::block->cluster->blocks[static_cast<std::size_t>(number)].shared.data());
  return reinterpret_cast<T*>(other + (reinterpret_cast<char*>(memory) - own));
}
inline void send(float* target, const float* values, int number, unsigned long long* arrival) {
  std::copy_n(values, 4, in_block(number, target));
  *in_block(number, arrival) -= 4 * sizeof(float);
  ++shim::block->cluster->sent;
}
inline void wait_for(unsigned long long* arrival) {
  while (*arrival != 0) shim::yield();
}
inline float __shfl_xor_sync(unsigned, float value, int mask) {
  shim::own_lane().value = shim::bits_of(value);
  // Nobody may write the next value before all have read this one.
  shim::meet(shim::own_warp(), [] {});
  const float taken = shim::float_of(shim::warp_lanes()[(shim::thread_number() % shim::kWarp) ^ mask].value);
  shim::meet(shim::own_warp(), [] {});
  return taken;
}
inline unsigned __reduce_add_sync(unsigned, unsigned value) {
  shim::own_lane().value = value;
  shim::meet(shim::own_warp(), [] {});
  unsigned sum = 0;
  for (int lane = 0; lane < shim::kWarp; ++lane) sum += shim::warp_lanes()[lane].value;
  shim::meet(shim::own_warp(), [] {});
  return sum;
}
inline void atomicMin(unsigned long long* target, unsigned long long value) {
  *target = std::min(*target, value);
}
inline float __int_as_float(int bits) { return shim::float_of(static_cast<unsigned>(bits)); }

// What the prelude writes in PTX for a GPU.
inline int made_anew(int x) { return x; }
inline float smaller(float x, float y) { return x < y || x != x ? x : y; }
inline float larger(float x, float y) { return x > y || x != x ? x : y; }
inline unsigned pack_bf16(float low, float high) { return shim::to_bf16(low) | shim::to_bf16(high) << 16; }
inline unsigned pack_fp16(float low, float high) { return shim::to_f16(low) | shim::to_f16(high) << 16; }
inline unsigned round_tf32(float x) { return (shim::bits_of(x) + 0x1000U) & ~0x1fffU; }
inline void multiply_bf16(float* d, const unsigned* a, const unsigned* b) {
  shim::multiply<16>(d, a, b, shim::bf16_of);
}
inline void multiply_fp16(float* d, const unsigned* a, const unsigned* b) {
  shim::multiply<16>(d, a, b, shim::fp16_of);
}
inline void multiply_tf32(float* d, const unsigned* a, const unsigned* b) {
  shim::multiply<8>(d, a, b, shim::tf32_of);
}
template <int Columns, int Steps>
void multiply_group_bf16(float* d, const unsigned* a, unsigned long long b) {
  shim::multiply_group<Columns, Steps, 16>(d, a, b, shim::bf16_of);
}
template <int Columns, int Steps>
void multiply_group_fp16(float* d, const unsigned* a, unsigned long long b) {
  shim::multiply_group<Columns, Steps, 16>(d, a, b, shim::fp16_of);
}
template <int Columns, int Steps>
void multiply_group_tf32(float* d, const unsigned* a, unsigned long long b) {
  shim::multiply_group<Columns, Steps, 8>(d, a, b, shim::tf32_of);
}
inline unsigned long long __cvta_generic_to_shared(const void* memory) {
  return shim::kSharedStart + shim::shared_offset(memory);
}
inline void show_to_warpgroups() {
  for (const std::size_t line : shim::block->running->written) shim::block->hidden[line] = 0;
  shim::block->running->written.clear();
}
inline void copy_async(float* to, const float* from, bool is_wanted) {
  const std::size_t line = shim::shared_offset(to) / shim::kLineBytes;
  shim::block->hidden[line] = 1;
  shim::block->running->written.push_back(line);
  if (is_wanted) {
    std::memcpy(to, from, 16);
  } else {
    std::memset(to, 0, 16);
  }
}
inline void end_copies() {}
inline void wait_for_copies_but_one() {}
