#define PROBE_LANES 4
#define PROBE_ACCUMULATORS kAccumulators
#define PROBE_NAME(name) name##_portable
#include "roof/probes.inl"
