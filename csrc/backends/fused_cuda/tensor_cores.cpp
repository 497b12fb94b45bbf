#include "backends/fused_cuda/tensor_cores.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <string_view>

#include "backends/fused/packed_program.h"
#include "backends/fused_cuda/text.h"

namespace datasentinel::fused_cuda {
namespace {

constexpr std::uint32_t kInfinite16 = 0x7c00;
constexpr float kLargest16 = 65504.0F;

std::uint32_t to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  return (bits + 0x7fffU + (bits >> 16U & 1U)) >> 16U;
}

/// Round to nearest, ties to even; what is too large becomes the largest number.
std::uint32_t to_fp16(float value) {
  const std::uint32_t sign = std::signbit(value) ? 0x8000U : 0U;
  const float size = std::fabs(value);
  if (size == 0) return sign;
  if (size >= kLargest16) return sign | (kInfinite16 - 1);
  int exponent = 0;
  static_cast<void>(std::frexp(size, &exponent));
  const int step = exponent - 11 < -24 ? -24 : exponent - 11;  // The distance of neighbours, as a power of 2.
  const auto steps = static_cast<std::uint32_t>(std::nearbyint(std::ldexp(size, -step)));
  // A carry out of the fraction is the next exponent, as it should be.
  return sign | (step == -24 ? steps : steps + (static_cast<std::uint32_t>(step + 24) << 10U));
}

/// Round to nearest, ties away from zero, as cvt.rna.tf32.f32 does.
std::uint32_t to_tf32(float value) { return (std::bit_cast<std::uint32_t>(value) + 0x1000U) & ~0x1fffU; }

}  // namespace

const char* const kTensorCoreFunctions = R"(#ifdef __CUDACC__
static __device__ __forceinline__ unsigned pack_bf16(float low, float high) {
  unsigned pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
static __device__ __forceinline__ unsigned pack_fp16(float low, float high) {
  unsigned pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
static __device__ __forceinline__ unsigned round_tf32(float x) {
  unsigned rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(x));
  return rounded;
}
#define MULTIPLY(name, shape) \
  static __device__ __forceinline__ void name(float* d, const unsigned* a, const unsigned* b) { \
    asm("mma.sync.aligned." shape " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1])); \
  }
MULTIPLY(multiply_bf16, "m16n8k16.row.col.f32.bf16.bf16.f32")
MULTIPLY(multiply_fp16, "m16n8k16.row.col.f32.f16.f16.f32")
MULTIPLY(multiply_tf32, "m16n8k8.row.col.f32.tf32.tf32.f32")
// 16 bytes into shared memory, or zeros, there after `wait_for_copies` of this group of copies or a later one.
static __device__ __forceinline__ void copy_async(float* to, const float* from, bool is_wanted) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :: "r"((unsigned)__cvta_generic_to_shared(to)), "l"(from), "r"(is_wanted ? 16 : 0) : "memory");
}
static __device__ __forceinline__ void end_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
static __device__ __forceinline__ void wait_for_copies_but_one() { asm volatile("cp.async.wait_group 1;" ::: "memory"); }
#endif
// What 16 bits cannot hold becomes the largest number they can, not infinity; NaN stays.
static __device__ __forceinline__ float within_fp16(float x) {
  return x > 65504.0f ? 65504.0f : x < -65504.0f ? -65504.0f : x;
}

)";

// The proxy that the products read shared memory through does not see what was written in the usual way
// before this fence.
const char* const kWarpgroupFunctions = R"(#ifdef __CUDACC__
static __device__ __forceinline__ void show_to_warpgroups() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
#define MULTIPLY_GROUP(name) \
  template <int Columns, int Steps> __device__ void name(float* d, const unsigned* a, unsigned long long b);
MULTIPLY_GROUP(multiply_group_bf16)
MULTIPLY_GROUP(multiply_group_fp16)
MULTIPLY_GROUP(multiply_group_tf32)
#endif
// Describes a matrix in shared memory, not swizzled: from its start (all in units of 16 bytes) the next core
// matrix along the inputs is 128 bytes away, that of the next eight columns 256.
static __device__ __forceinline__ unsigned long long described(const float* matrix) {
  return (__cvta_generic_to_shared(matrix) & 0x3ffff) >> 4 | 128ull >> 4 << 16 | 256ull >> 4 << 32;
}

)";

std::string warpgroup_product(Precision precision, std::size_t columns, std::size_t steps) {
  const auto listed = [](std::size_t count, std::size_t first, std::string_view form) {
    std::string text;
    for (std::size_t i = first; i < first + count; ++i) {
      if (i != first) text += ", ";
      text += fill(form, {{"i", text_of(i)}});
    }
    return text;
  };
  const bool is_tf32 = precision == Precision::tf32;
  const std::string type = precision == Precision::fp16 ? "f16" : std::string(to_string(precision));
  const std::size_t sums = columns / 2;
  const std::size_t matrix = sums + 4 * steps;
  std::string products;
  for (std::size_t step = 0; step < steps; ++step) {
    products += fill(R"(      "add.s64 b, %@matrix@, @offset@;\n\t"
      "wgmma.mma_async.sync.aligned.m64n@columns@k@inputs@.f32.@type@.@type@ {@sums@}, {@left@}, b, p, 1, 1@k_major@;\n\t"
)",
                     {{"matrix", text_of(matrix)},
                      {"offset", text_of(step * columns * 32 / 16)},
                      {"columns", text_of(columns)},
                      {"inputs", is_tf32 ? "8" : "16"},
                      {"type", type},
                      {"sums", listed(sums, 0, "%@i@")},
                      {"left", listed(4, sums + 4 * step, "%@i@")},
                      // A transposed operand is for numbers of 16 bits alone.
                      {"k_major", is_tf32 ? "" : ", 0"}});
  }
  return fill(R"(#ifdef __CUDACC__
template <>
__device__ __forceinline__ void multiply_group_@precision@<@columns@, @steps@>(float* d, const unsigned* a,
                                                                   unsigned long long b) {
  asm volatile("{\n\t.reg .b64 b;\n\t.reg .pred p;\n\tsetp.eq.b32 p, 0, 0;\n\t"
      "wgmma.fence.sync.aligned;\n\t"
@products@      "wgmma.commit_group.sync.aligned;\n\t"
      "wgmma.wait_group.sync.aligned 0;\n\t}"
      : @sums@
      : @left@,
        "l"(b)
      : "memory");
}
#endif
)",
              {{"precision", std::string(to_string(precision))},
               {"columns", text_of(columns)},
               {"steps", text_of(steps)},
               {"products", products},
               {"sums", listed(sums, 0, R"("+f"(d[@i@]))")},
               {"left", listed(4 * steps, 0, R"("r"(a[@i@]))")}});
}

float Fragments::weight(std::size_t input, std::size_t output) const {
  if (input >= layer_.inputs || output >= layer_.outputs) return 0.0F;
  return fused::to_float32(layer_.weights[input * layer_.outputs + output]);
}

float Fragments::word(std::size_t input, std::size_t output) const {
  const float low = weight(input, output);
  const float high = weight(input + 1, output);
  const std::uint32_t bits = precision_ == Precision::tf32   ? to_tf32(low)
                             : precision_ == Precision::bf16 ? to_bf16(low) | to_bf16(high) << 16U
                                                             : to_fp16(low) | to_fp16(high) << 16U;
  return std::bit_cast<float>(bits);
}

std::vector<float> Fragments::packed() const {
  std::vector<float> bits;
  const bool is_tf32 = precision_ == Precision::tf32;
  for (std::size_t group = 0; group < column_groups(); ++group) {
    for (std::size_t chunk = 0; chunk < chunks(); ++chunk) {
      for (std::size_t part = 0; part < (is_tf32 ? 2 : 1); ++part) {
        for (std::size_t lane = 0; lane < 32; ++lane) {
          for (std::size_t i = 0; i < 4; ++i) {
            const std::size_t j = is_tf32 ? 4 * part + i : 2 * i;
            bits.push_back(word(32 * chunk + 8 * (j / 2) + 2 * (lane % 4) + j % 2, 8 * group + lane / 4));
          }
        }
      }
    }
  }
  return bits;
}

std::vector<float> Fragments::packed_for_warpgroup(std::size_t groups) const {
  std::vector<float> bits;
  const bool is_tf32 = precision_ == Precision::tf32;
  for (std::size_t first = 0; first < column_groups(); first += groups) {
    for (std::size_t step = 0; step < steps_in_all(); ++step) {
      for (std::size_t group = first; group < first + groups; ++group) {
        for (std::size_t half = 0; half < 2; ++half) {
          for (std::size_t column = 0; column < 8; ++column) {
            for (std::size_t i = 0; i < 4; ++i) {
              const std::size_t input = is_tf32 ? 8 * step + 2 * i + half : 16 * step + 8 * half + 2 * i;
              bits.push_back(word(input, 8 * group + column));
            }
          }
        }
      }
    }
  }
  return bits;
}

std::string Fragments::pack_text() const {
  const bool is_tf32 = precision_ == Precision::tf32;
  std::string text;
  for (std::size_t step = 0; step < steps(); ++step) {
    for (std::size_t word = 0; word < 4; ++word) {
      // Words 0 and 1 hold the first inputs of rows g and g + 8, words 2 and 3 the others.
      const std::string half = text_of(word % 2);
      const std::size_t input = is_tf32 ? 2 * step + word / 2 : 4 * step + 2 * (word / 2);
      const auto x = [&](std::size_t j) {
        const std::string value = "x[" + half + "][" + text_of(j) + "]";
        return precision_ == Precision::fp16 ? "within_fp16(" + value + ")" : value;
      };
      text += "          a[m][" + text_of(step) + "][" + text_of(word) + "] = ";
      text += is_tf32 ? "round_tf32(" + x(input) + ");\n"
                      : "pack_" + std::string(to_string(precision_)) + "(" + x(input) + ", " + x(input + 1) +
                            ");\n";
    }
  }
  return text;
}

std::string Fragments::load_text() const {
  const std::size_t parts = precision_ == Precision::tf32 ? 2 : 1;
  std::string text;
  for (std::size_t part = 0; part < parts; ++part) {
    text += fill(
        R"(          const uint4 w@part@ = w[(((first_group + n) * @chunks@ + chunk) * @parts@ + @part@) * 32];
          b[@first@][0] = w@part@.x; b[@first@][1] = w@part@.y; b[@second@][0] = w@part@.z; b[@second@][1] = w@part@.w;
)",
        {{"part", text_of(part)},
         {"parts", text_of(parts)},
         {"chunks", text_of(chunks())},
         {"first", text_of(2 * part)},
         {"second", text_of(2 * part + 1)}});
  }
  return text;
}

}  // namespace datasentinel::fused_cuda
