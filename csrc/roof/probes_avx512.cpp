#define PROBE_LANES 16
#define PROBE_ACCUMULATORS kAccumulators
#define PROBE_NAME(name) name##_avx512
#include "roof/probes.inl"
