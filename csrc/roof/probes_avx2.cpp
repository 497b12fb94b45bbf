#define PROBE_LANES 8
#define PROBE_ACCUMULATORS kAccumulators
#define PROBE_NAME(name) name##_avx2
#include "roof/probes.inl"
