#include <cpuid.h>

#include "backends/fused/isa.h"
#include "backends/fused/kernels.h"

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace datasentinel::fused {
namespace {

/// Whether the processor multiplies tiles of bf16 and int8, which not every compiler's run-time check can
/// tell.
bool has_tiles() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  constexpr unsigned kBf16 = 1U << 22U;
  constexpr unsigned kTiles = 1U << 24U;
  constexpr unsigned kInt8 = 1U << 25U;
  constexpr unsigned kAll = kBf16 | kTiles | kInt8;
  return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 && (edx & kAll) == kAll;
}

/// Whether the operating system lets this process have the registers of AMX, which Linux wants to be asked
/// for.
bool may_use_tiles() {
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM of asm/prctl.h
  constexpr long kTileData = 18;               // its bit in XCR0
  static const bool allowed = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return allowed;
#else
  return false;
#endif
}

}  // namespace

std::vector<InstructionSet> instruction_sets() {
  __builtin_cpu_init();
  // The compiler's run-time check asks the processor and whether the system saves the registers.
  const bool avx2 = __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") != 0 &&
                      __builtin_cpu_supports("avx512bw") != 0 && __builtin_cpu_supports("avx512dq") != 0 &&
                      __builtin_cpu_supports("avx512vl") != 0;
  const bool bf16 = __builtin_cpu_supports("avx512bf16") != 0;
  const bool vnni = __builtin_cpu_supports("avx512vnni") != 0;
  // A row or two are multiplied without tiles.
  const bool amx = avx512 && bf16 && vnni && has_tiles() && may_use_tiles();
  return {{"amx", amx, kernels_avx512, bf16_amx, int8_amx},
          {"avx512", avx512, kernels_avx512, bf16 ? bf16_avx512 : nullptr, vnni ? int8_avx512 : nullptr},
          {"avx2", avx2, kernels_avx2},
          {"portable", true, kernels_portable}};
}

}  // namespace datasentinel::fused
