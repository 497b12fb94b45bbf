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
static __device__ __forceinline__ float f_sign(float x) { return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x; }

)";

// As cooperative groups do it: each block's first thread speaks for all. The count only grows; the number of
// blocks is a power of two, so that it may run over.
const char* const kBlocksFunctions = R"(#ifdef __CUDACC__
static __device__ __forceinline__ void wait_for_all_blocks(unsigned* arrived) {
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    const unsigned all = (atomicAdd(arrived, 1u) / gridDim.x + 1u) * gridDim.x;
    while ((int)(*(volatile unsigned*)arrived - all) < 0) {}
    __threadfence();
  }
  __syncthreads();
}
#endif

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
    case Function::square: return "(" + x + ") * (" + x + ")";
    case Function::reciprocal: return "1.0f / (" + x + ")";
    case Function::erf: return "erff(" + x + ")";
  }
  return x;
}

}  // namespace datasentinel::fused_cuda
