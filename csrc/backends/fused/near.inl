// Squares of a layer of distances (see ExpandedDistances) that are near: they are computed again from
// differences. Included inside the anonymous namespace of each kernels_<isa>.cpp.

#define FUSED_APART __attribute__((noinline))  // What is rare makes what is not slower where it is inlined.

/// The centres from `column` on; their coordinates k are k * kCentreColumns floats further.
FUSED_INLINE const float* centre_of(const Step& step, long column) {
  const long width = step.a.width - 1;
  return step.centres + column / kCentreColumns * kCentreColumns * width + column % kCentreColumns;
}

/// Adds (z - c)^2 up over `width` coordinates, in the same order wherever it is used.
template <int kVectors, typename Difference>
FUSED_INLINE void add_squares(long width, Difference difference, Vector (&totals)[kVectors]) {
  constexpr int kChains = 4;
  Vector sums[kChains][kVectors] = {};
  const auto add = [&](int chain, long k) FUSED_LAMBDA {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const Vector d = difference(k, v);
      sums[chain][v] = fma(d, d, sums[chain][v]);
    }
  };
  long k = 0;
  for (; k + kChains <= width; k += kChains) {
#pragma GCC unroll 4
    for (int chain = 0; chain < kChains; ++chain) add(chain, k + chain);
  }
  for (; k < width; ++k) add(0, k);
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) totals[v] = (sums[0][v] + sums[1][v]) + (sums[2][v] + sums[3][v]);
}

/// Below which squares of centres with this gain are near, in the v-th vector of rows.
template <int kVectors>
FUSED_INLINE Vector near_limit(const RowsInLanes<kVectors>& layout, const Step& step, float gain, long v) {
  const float* lengths = layout.at(step.a) + (step.a.width - 1L) * (kVectors * kLanes);
  return splat(gain) * (splat(kNearShare) * load(lengths + v * kLanes));
}

/// Whether one of a vector of squares for each vector of rows is near.
template <int kVectors>
FUSED_INLINE IntVector are_near(const RowsInLanes<kVectors>& layout, const Step& step, float gain,
                                const float* squares) {
  IntVector near{};
#pragma GCC unroll 4
  for (long v = 0; v < kVectors; ++v) {
    near |= load(squares + v * kLanes) < near_limit(layout, step, gain, v);
  }
  return near;
}

/// Whether one of the squares of which the smallest is the first in `list` may be near.
template <int kVectors>
FUSED_INLINE bool has_near(const RowsInLanes<kVectors>& layout, const Step& step, Columns list) {
  return any(are_near(layout, step, step.largest_gain, layout.at(list)));
}

/// Copies of what the takers behind a layer have so far, one after the other.
template <int kVectors>
FUSED_INLINE void keep_lists(const RowsInLanes<kVectors>& layout, const Step* layer, float* kept) {
  for (int i = 1; i <= layer->takers; kept += layer[i].out.width * layout.kStride, ++i) {
    layout.copy(layout.at(layer[i].out), layer[i].out.width, kept);
  }
}

template <int kVectors>
FUSED_INLINE void restore_lists(const RowsInLanes<kVectors>& layout, const Step* layer, const float* kept) {
  for (int i = 1; i <= layer->takers; kept += layer[i].out.width * layout.kStride, ++i) {
    layout.copy(kept, layer[i].out.width, layout.at(layer[i].out));
  }
}

/// Looks through `count` squares, whose centres begin at `first`; false if none was near.
template <int kVectors>
FUSED_APART bool measure_near(const RowsInLanes<kVectors>& layout, const Step& step, long first, int count) {
  constexpr int kStride = RowsInLanes<kVectors>::kStride;
  constexpr long kTogether = 8;  // Squares that are looked at together: few are near.
  const float* z = layout.at(step.a);
  float* squares = layout.at(step.out);
  bool found = false;
  for (long start = 0; start < count; start += kTogether) {
    const long end = start + kTogether < count ? start + kTogether : count;
    IntVector near{};
    for (long c = start; c < end; ++c) {
      near |= are_near(layout, step, step.scale[first + c], squares + c * kStride);
    }
    if (!any(near)) continue;
    found = true;
    for (long c = start; c < end; ++c) {
      const float gain = step.scale[first + c];
      float* square = squares + c * kStride;
      if (!any(are_near(layout, step, gain, square))) continue;
      const float* centre = centre_of(step, first + c);
      const auto difference = [=](long k, long v) FUSED_LAMBDA {
        return load(z + k * kStride + v * kLanes) - splat(centre[k * kCentreColumns]);
      };
      Vector totals[kVectors];
      add_squares(step.a.width - 1, difference, totals);
#pragma GCC unroll 4
      for (long v = 0; v < kVectors; ++v) {
        const Vector expanded = load(square + v * kLanes);
        const IntVector is_near = expanded < near_limit(layout, step, gain, v);
        store(square + v * kLanes, select(is_near, splat(gain) * totals[v], expanded));
      }
    }
  }
  return found;
}

/// A few rows have all columns at once, before which nothing is taken.
FUSED_INLINE void keep_lists(const ColumnsInLanes& /*layout*/, const Step* /*layer*/, float* /*kept*/) {}
FUSED_INLINE void restore_lists(const ColumnsInLanes& /*layout*/, const Step* /*layer*/,
                                const float* /*kept*/) {}

/// The same of a few rows.
FUSED_INLINE bool has_near(const ColumnsInLanes& layout, const Step& step, Columns list) {
  bool found = false;
  for (long r = 0; r < layout.rows; ++r) {
    const float length = layout.at(step.a)[r * layout.stride + step.a.width - 1];
    found |= layout.at(list)[r * layout.stride] < step.largest_gain * (kNearShare * length);
  }
  return found;
}

/// The same of all squares of a few rows.
FUSED_APART inline bool measure_near(const ColumnsInLanes& layout, const Step& step, long /*first*/,
                                     int count) {
  const long width = step.a.width - 1;
  bool found = false;
  for (long r = 0; r < layout.rows; ++r) {
    const float* z = layout.at(step.a) + r * layout.stride;
    float* squares = layout.at(step.out) + r * layout.stride;
    const Vector share = splat(kNearShare * z[width]);
    for (long c = 0; c < count; c += kLanes) {
      const Vector gain = load(step.scale + c);  // 0 beyond the last column, so that nothing is near there.
      const Vector expanded = load(squares + c);
      const IntVector is_near = expanded < gain * share;
      if (!any(is_near)) continue;
      found = true;
      const float* centres = centre_of(step, c);
      const auto difference = [=](long k, long)
                                  FUSED_LAMBDA { return splat(z[k]) - load(centres + k * kCentreColumns); };
      Vector totals[1];
      add_squares(width, difference, totals);
      store(squares + c, select(is_near, gain * totals[0], expanded));
    }
  }
  return found;
}
