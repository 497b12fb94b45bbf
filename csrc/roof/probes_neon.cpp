#define PROBE_LANES 4
#define PROBE_ACCUMULATORS kNeonAccumulators
#define PROBE_NAME(name) name##_neon
#include "roof/probes.inl"
