// Vector operations that GCC and Clang offer alike on every target, for `kLanes` float32 lanes.
// Included inside an anonymous namespace by each simd_<isa>.h, after `kLanes`.

typedef float Vector __attribute__((vector_size(kLanes * 4)));
typedef int IntVector __attribute__((vector_size(kLanes * 4)));
typedef float UnalignedVector __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));

#define FUSED_INLINE inline __attribute__((always_inline))
#define FUSED_LAMBDA __attribute__((always_inline))  // or GCC calls those that many loops use

FUSED_INLINE Vector load(const float* p) { return *reinterpret_cast<const UnalignedVector*>(p); }
FUSED_INLINE IntVector load_ints(const int* p) {
  return reinterpret_cast<IntVector>(load(reinterpret_cast<const float*>(p)));
}
FUSED_INLINE void store(float* p, Vector v) { *reinterpret_cast<UnalignedVector*>(p) = v; }
FUSED_INLINE Vector splat(float x) { return x - Vector{}; }
FUSED_INLINE IntVector bits(Vector v) { return reinterpret_cast<IntVector>(v); }
FUSED_INLINE Vector from_bits(IntVector v) { return reinterpret_cast<Vector>(v); }
/// Without undefined behaviour where the difference leaves the range of int.
FUSED_INLINE IntVector subtract_wrapping(IntVector a, int b) {
  typedef unsigned UnsignedVector __attribute__((vector_size(kLanes * 4)));
  return reinterpret_cast<IntVector>(reinterpret_cast<UnsignedVector>(a) - static_cast<unsigned>(b));
}
FUSED_INLINE Vector select(IntVector mask, Vector yes, Vector no) { return mask ? yes : no; }
FUSED_INLINE Vector absolute(Vector v) { return from_bits(bits(v) & 0x7FFFFFFF); }
FUSED_INLINE Vector copy_sign(Vector magnitude, Vector sign) {
  return from_bits((bits(magnitude) & 0x7FFFFFFF) | (bits(sign) & static_cast<int>(0x80000000)));
}
/// x with the opposite sign where v is negative.
FUSED_INLINE Vector change_sign(Vector x, Vector v) {
  return from_bits(bits(x) ^ (bits(v) & static_cast<int>(0x80000000)));
}
FUSED_INLINE Vector to_float(IntVector v) { return __builtin_convertvector(v, Vector); }
FUSED_INLINE IntVector to_int(Vector v) { return __builtin_convertvector(v, IntVector); }

/// 0, 1, 2, ...
FUSED_INLINE IntVector lane_numbers() {
  IntVector index;
  for (int i = 0; i < kLanes; ++i) index[i] = i;
  return index;
}
/// True in the first `count` lanes.
FUSED_INLINE IntVector first_lanes(long count) { return lane_numbers() < static_cast<int>(count); }
/// `gather_lanes`, where the processor has no instruction for it.
FUSED_INLINE Vector gather_one_by_one(const float* p, IntVector index) {
  Vector v;
  for (int i = 0; i < kLanes; ++i) v[i] = p[index[i]];
  return v;
}
/// Lane i of the result is lane i ^ by. `Any` is Vector; without a parameter, clang checks every branch.
template <int by, typename Any>
FUSED_INLINE Any swap_lanes(Any v) {
  constexpr int lanes = static_cast<int>(sizeof(Any) / sizeof(float));
  if constexpr (lanes == 4) {
    return __builtin_shufflevector(v, v, 0 ^ by, 1 ^ by, 2 ^ by, 3 ^ by);
  } else if constexpr (lanes == 8) {
    return __builtin_shufflevector(v, v, 0 ^ by, 1 ^ by, 2 ^ by, 3 ^ by, 4 ^ by, 5 ^ by, 6 ^ by, 7 ^ by);
  } else {
    return __builtin_shufflevector(v, v, 0 ^ by, 1 ^ by, 2 ^ by, 3 ^ by, 4 ^ by, 5 ^ by, 6 ^ by, 7 ^ by,
                                   8 ^ by, 9 ^ by, 10 ^ by, 11 ^ by, 12 ^ by, 13 ^ by, 14 ^ by, 15 ^ by);
  }
}
/// Whether a bit is set in any lane.
FUSED_INLINE bool any(IntVector v) {
  if constexpr (kLanes > 8) v |= swap_lanes<8>(v);
  if constexpr (kLanes > 4) v |= swap_lanes<4>(v);
  v |= swap_lanes<2>(v);
  return (v[0] | v[1]) != 0;
}
