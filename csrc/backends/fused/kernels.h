#pragma once

#include "backends/fused/kernel_api.h"

namespace datasentinel::fused {

// One translation unit each, compiled for its instruction set. Do not call the code behind one before
// isa.h has found that the processor has it.
const Kernels& kernels_portable();
const Kernels& kernels_avx2();
const Kernels& kernels_avx512();
const Kernels& kernels_neon();
const WordKernels& bf16_amx();
const WordKernels& bf16_avx512();
const WordKernels& int8_amx();
const WordKernels& int8_avx512();

}  // namespace datasentinel::fused
