#define PROBE_LANES 16
#define PROBE_NAME(name) name##_avx512
#include "roof/probes.inl"
