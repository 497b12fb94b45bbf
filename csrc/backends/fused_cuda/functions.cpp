#include "backends/fused_cuda/functions.h"

#include <array>
#include <cmath>
#include <cstdio>

namespace datasentinel::fused_cuda {

using fused::Function;

// Comparisons are written so that NaN passes through: a row that overflows must not come out as normal.
const char* const kPrelude = R"(#ifndef EXTERN_SHARED
#define EXTERN_SHARED(name) extern __shared__ __align__(16) float name[]
#endif
#define INFINITE __int_as_float(0x7f800000)
#define LARGEST __int_as_float(0x7f7fffff)

#ifdef __CUDACC__
static __device__ __forceinline__ float smaller(float x, float y) {
  float least;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(least) : "f"(x), "f"(y));
  return least;
}
static __device__ __forceinline__ float larger(float x, float y) {
  float greatest;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(greatest) : "f"(x), "f"(y));
  return greatest;
}
// So that a loop computes what follows from `x` each time, which takes less than keeping it all.
static __device__ __forceinline__ int made_anew(int x) {
  asm volatile("" : "+r"(x));
  return x;
}
#endif
static __device__ __forceinline__ float made_finite(float x) { return fabsf(x) < INFINITE ? x : LARGEST; }
static __device__ __forceinline__ void check(float x, unsigned long long place, unsigned long long* bad) {
  if (!(fabsf(x) < INFINITE)) atomicMin(bad, place);
}
static __device__ __forceinline__ void tell(unsigned above, int threads, unsigned* anomalies) {
  if (anomalies == nullptr) return;
  above = __reduce_add_sync(0xffffffffu, above);
  if (threadIdx.x % 32 == 0) anomalies[(blockIdx.x * threads + threadIdx.x) / 32] = above;
}
static __device__ __forceinline__ float f_relu(float x) { return larger(x, 0.0f); }
static __device__ __forceinline__ float f_leaky_relu(float x, float a) { return x < 0.0f ? a * x : x; }
static __device__ __forceinline__ float f_elu(float x, float a, float b) { return x < 0.0f ? a * expm1f(x) : b * x; }
static __device__ __forceinline__ float f_sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
static __device__ __forceinline__ float f_gelu(float x) {
  return x < -14.5f ? 0.0f : 0.5f * x * erfcf(-0.70710678f * x);
}
static __device__ __forceinline__ float f_gelu_tanh(float x) {
  return x < -20.0f ? 0.0f : x * f_sigmoid(1.5957691216f * fmaf(0.044715f * x * x, x, x));
}
static __device__ __forceinline__ float f_silu(float x) { return x < -120.0f ? 0.0f : x * f_sigmoid(x); }
static __device__ __forceinline__ float f_clip(float x, float a, float b) {
  const float y = x < a ? a : x;
  return y > b ? b : y;
}
static __device__ __forceinline__ float f_quantize(float x, float a, float b) {
  return rintf(f_clip(x / a, -128.0f - b, 127.0f - b));
}
static __device__ __forceinline__ float f_softplus(float x) { return (x < 0.0f ? 0.0f : x) + log1pf(expf(-fabsf(x))); }
static __device__ __forceinline__ float f_power(float x, float a, float b) {
  x = f_clip(x, -1e30f, 1e30f);
  const float y = a * x;
  return exp2f(y) * exp2f(f_clip(fmaf(a, x, -y) + b * x, -1.0f, 1.0f));
}
static __device__ __forceinline__ float f_sign(float x) { return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x; }

)";

// What is sent to a block counts the bytes that it still expects of a layer, and is there for threads that
// have seen them all: no fence and no barrier of the cluster is needed, which take half a microsecond. Shared
// memory has the same addresses in every block. NVRTC knows the instructions from 12.1 on.
const char* const kClusterFunctions = R"(#if !defined(__CUDA_ARCH__)
#define HAS_CLUSTERS
#elif __CUDA_ARCH__ >= 900 && 100 * __CUDACC_VER_MAJOR__ + __CUDACC_VER_MINOR__ >= 1201
#define HAS_CLUSTERS
static __device__ __forceinline__ unsigned shared_address(const void* memory) {
  return (unsigned)__cvta_generic_to_shared(memory);
}
static __device__ __forceinline__ unsigned address_in(int block, const void* memory) {
  unsigned address;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared_address(memory)), "r"(block));
  return address;
}
static __device__ __forceinline__ void expect(unsigned long long* arrival, unsigned bytes) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" : : "r"(shared_address(arrival)) : "memory");
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
               : : "r"(shared_address(arrival)), "r"(bytes) : "memory");
}
static __device__ __forceinline__ void meet_cluster() {
  asm volatile("fence.mbarrier_init.release.cluster;" : : : "memory");
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" : : : "memory");
  asm volatile("barrier.cluster.wait.acquire.aligned;" : : : "memory");
}
static __device__ __forceinline__ void send(float* target, const float* values, int block,
                                            unsigned long long* arrival) {
  asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];"
               : : "r"(address_in(block, target)), "f"(values[0]), "f"(values[1]), "f"(values[2]),
                   "f"(values[3]), "r"(address_in(block, arrival)) : "memory");
}
static __device__ __forceinline__ void wait_for(unsigned long long* arrival) {
  asm volatile("{\n\t.reg .pred done;\n\tagain:\n\t"
               "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], 0;\n\t"
               "@!done bra again;\n\t}"
               : : "r"(shared_address(arrival)) : "memory");
}
#endif
// Adds up four values of each of some columns over `Lanes` lanes twice: the first lanes get the first column's,
// and so on. At each step a lane passes on the half that it does not add up.
template <int Columns, int Lanes = 16>
static __device__ __forceinline__ void add_over_lanes(float* values) {
  if constexpr (Columns > 1) {
    constexpr int half = 2 * Columns;
    const bool is_upper = (threadIdx.x & Lanes) != 0;
    #pragma unroll
    for (int i = 0; i < half; ++i) {
      const float kept = is_upper ? values[i + half] : values[i];
      const float given = is_upper ? values[i] : values[i + half];
      values[i] = kept + __shfl_xor_sync(0xffffffffu, given, Lanes);
    }
    add_over_lanes<Columns / 2, Lanes / 2>(values);
  } else {
    #pragma unroll
    for (int r = 0; r < 4; ++r) {
      #pragma unroll
      for (int lanes = Lanes; lanes > 0; lanes /= 2) values[r] += __shfl_xor_sync(0xffffffffu, values[r], lanes);
    }
  }
}

)";

std::string literal(float value) {
  if (std::isinf(value)) return value > 0 ? "INFINITE" : "(-INFINITE)";
  std::array<char, 48> text{};
  std::snprintf(text.data(), text.size(), "%af", static_cast<double>(value));
  return text.data();
}

std::string function_of(const fused::FunctionCall& call, const std::string& x) {
  const std::string a = ", " + literal(call.a);
  const std::string b = ", " + literal(call.b);
  switch (call.function) {
    case Function::identity: return x;
    case Function::relu: return "f_relu(" + x + ")";
    case Function::leaky_relu: return "f_leaky_relu(" + x + a + ")";
    case Function::elu: return "f_elu(" + x + a + b + ")";
    case Function::gelu: return "f_gelu(" + x + ")";
    case Function::gelu_tanh: return "f_gelu_tanh(" + x + ")";
    case Function::silu: return "f_silu(" + x + ")";
    case Function::tanh: return "tanhf(" + x + ")";
    case Function::sigmoid: return "f_sigmoid(" + x + ")";
    case Function::hard_sigmoid: return "f_clip(fmaf(" + literal(call.a) + ", " + x + b + "), 0.0f, 1.0f)";
    case Function::hard_swish: return "(" + x + ") * f_clip(fmaf(" + x + ", 1.0f / 6, 0.5f), 0.0f, 1.0f)";
    case Function::softplus: return "f_softplus(" + x + ")";
    case Function::softsign: return "(" + x + ") / (1.0f + fabsf(" + x + "))";
    case Function::quantize: return "f_quantize(" + x + a + b + ")";
    case Function::clip: return "f_clip(" + x + a + b + ")";
    case Function::abs: return "fabsf(" + x + ")";
    case Function::sign: return "f_sign(" + x + ")";
    case Function::sqrt: return "sqrtf(" + x + ")";
    case Function::log: return "logf(" + x + ")";
    case Function::exp: return "expf(" + x + ")";
    case Function::power: return "f_power(" + x + a + b + ")";
    case Function::square: return "(" + x + ") * (" + x + ")";
    case Function::reciprocal: return "1.0f / (" + x + ")";
    case Function::erf: return "erff(" + x + ")";
  }
  return x;
}

}  // namespace datasentinel::fused_cuda
