// Decision trees, walked without branches: every lane at a node of its own, all of them a level further at a
// time. Included inside the anonymous namespace of each kernels_<isa>.cpp.

/// Levels between two looks at whether every walk has ended.
constexpr int kTreeLevelsAtOnce = 8;

/// From the nodes `at` to the leaves, at most `depth` levels further; `place` is where a lane's row has a
/// feature, from `in` on.
template <int kCount, typename Place>
FUSED_INLINE void descend(const Trees& trees, int depth, const float* in, Place place,
                          IntVector (&at)[kCount]) {
  for (;;) {
    for (int level = depth < kTreeLevelsAtOnce ? depth : kTreeLevelsAtOnce; level > 0; --level) {
#pragma GCC unroll 8
      for (int i = 0; i < kCount; ++i) {
        const IntVector word = bits(gather_lanes(trees.words, at[i]));
        const Vector threshold = gather_lanes(trees.thresholds, at[i]);
        const IntVector feature = (word >> kTreeChildBits) & ((1 << kTreeFeatureBits) - 1);
        const IntVector is_second =
            change_sign(gather_lanes(in, place(i, feature)), from_bits(word)) <= threshold;
        at[i] += (word & ((1 << kTreeChildBits) - 1)) - is_second;
      }
    }
    depth -= kTreeLevelsAtOnce;
    if (depth <= 0) return;
    IntVector words{};
    for (int i = 0; i < kCount; ++i) words |= bits(gather_lanes(trees.words, at[i]));
    if (!any(words)) return;
  }
}
