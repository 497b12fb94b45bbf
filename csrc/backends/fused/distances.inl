// Squared distances to points, and layers whose results are taken in parts. Included inside the anonymous
// namespace of each kernels_<isa>.cpp. In both layouts what a column adds goes to the sum of those before it.

constexpr int kPartGroup = kPanelColumns < 8 ? 4 : 8;  // 8 or 16 accumulators
constexpr int kPartColumns = 96;                       // They stay in the first-level cache.
static_assert(kPartColumns % kPartGroup == 0);

/// Rows in lanes: `kPartGroup` columns of `kVectors` vectors of rows, over `width` inputs.
template <bool kDistances, int kVectors>
FUSED_INLINE void lane_group(const float* in, const float* weights, const float* bias, long width,
                             float* out) {
  constexpr int kStride = kVectors * kLanes;
  Vector sums[kPartGroup][kVectors];
#pragma GCC unroll 8
  for (int c = 0; c < kPartGroup; ++c) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sums[c][v] = splat(kDistances ? 0.0F : bias[c]);
  }
  for (long k = 0; k < width; ++k) {
    Vector rows[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) rows[v] = load(in + k * kStride + v * kLanes);
    const Factors<kPartGroup> factors = load_factors<kPartGroup>(weights + k * kPartGroup);
#pragma GCC unroll 8
    for (int c = 0; c < kPartGroup; ++c) {
      const Vector weight = splat(factors[c]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        const Vector difference = rows[v] - weight;
        sums[c][v] = kDistances ? fma(difference, difference, sums[c][v]) : fma(rows[v], weight, sums[c][v]);
      }
    }
  }
#pragma GCC unroll 8
  for (int c = 0; c < kPartGroup; ++c) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) store(out + c * kStride + v * kLanes, sums[c][v]);
  }
}

/// In parts of up to `most` columns, a multiple of `kPartGroup` unless it is all, which all go to the
/// beginning of `out`: before the next one does, `take(first, count)` is called.
template <bool kDistances, int kVectors, typename Take>
void lane_parts(const Step& step, const float* in, float* out, int most, Take take) {
  constexpr int kStride = kVectors * kLanes;
  for (int first = 0; first < step.out.width; first += most) {
    const int count = step.out.width - first < most ? step.out.width - first : most;
    for (long column = first; column < first + count; column += kPartGroup) {
      lane_group<kDistances, kVectors>(in, step.lane_weights + column * step.a.width,
                                       kDistances ? nullptr : step.bias + column, step.a.width,
                                       out + (column - first) * kStride);
    }
    take(first, count);
  }
}

/// Columns in lanes: `kRows` rows and `kVectors` vectors of points, of a pair of them.
template <int kRows, int kVectors>
FUSED_INLINE void column_distances(const float* in, long stride, const float* points, long width,
                                   float* out) {
  Vector sums[kRows][kVectors] = {};
  for (long k = 0; k < width; ++k) {
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const Vector value = splat(in[r * stride + k]);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        const Vector difference = value - load(points + (2 * k + v) * kLanes);
        sums[r][v] = fma(difference, difference, sums[r][v]);
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) store(out + r * stride + v * kLanes, sums[r][v]);
  }
}

template <int kVectors>
FUSED_INLINE void column_distances_of(int rows, const float* in, long stride, const float* points, long width,
                                      float* out) {
  constexpr int kRows = 4;
  int row = 0;
  for (; row + kRows <= rows; row += kRows) {
    column_distances<kRows, kVectors>(in + row * stride, stride, points, width, out + row * stride);
  }
  for (; row < rows; ++row) {
    column_distances<1, kVectors>(in + row * stride, stride, points, width, out + row * stride);
  }
}

/// All rows pass over the points of one pair of vectors before the next ones are touched.
void distances_of_columns(int rows, const Step& step, const float* in, long stride, float* out) {
  const long width = step.a.width;
  const float* points = step.column_weights;
  long first = 0;
  for (; first + kLanes < step.out.width; first += 2 * kLanes) {
    column_distances_of<2>(rows, in, stride, points + first * width, width, out + first);
  }
  if (first < step.out.width) {
    column_distances_of<1>(rows, in, stride, points + first * width, width, out + first);
  }
}
