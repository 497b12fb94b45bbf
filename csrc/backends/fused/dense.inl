// Dense layers. Included inside the anonymous namespace of each kernels_<isa>.cpp.

/// The cheap functions are applied to the accumulators: identity as max(-inf, x), ReLU as max(0, x).
FUSED_INLINE Vector floor_of(Function function) {
  return splat(function == Function::relu ? 0.0F : -__builtin_inff());
}

FUSED_INLINE bool is_floor(Function function) {
  return function == Function::relu || function == Function::identity;
}

// Rows in lanes.

/// One register tile: `kColumns` columns of `kVectors` vectors of rows, over `count` inputs. Starts from the
/// bias, or from the partial sums in `out` when that is null.
template <int kVectors, int kColumns>
void lane_tile(const float* in, const float* weights, long count, const float* bias, Vector floor,
               float* out) {
  constexpr int kStride = kVectors * kLanes;
  // With few accumulators, two sets hide the latency of the multiply-add.
  constexpr int kSets = kVectors * kColumns <= kPanelColumns ? 2 : 1;
  Vector sums[kSets][kColumns][kVectors];
#pragma GCC unroll 16
  for (int c = 0; c < kColumns; ++c) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      sums[0][c][v] = bias != nullptr ? splat(bias[c]) : load(out + c * kStride + v * kLanes);
      if (kSets == 2) sums[1 % kSets][c][v] = splat(0.0F);
    }
  }
  const auto multiply_add = [&](int set) __attribute__((always_inline)) {
    Vector rows[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) rows[v] = load(in + v * kLanes);
#pragma GCC unroll 16
    for (int c = 0; c < kColumns; ++c) {
      const Vector weight = splat(weights[c]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[set][c][v] = fma(rows[v], weight, sums[set][c][v]);
    }
    in += kStride;
    weights += kColumns;
  };
  // Unrolled also because a loop of few rounds is one whose end the processor predicts.
  constexpr int kUnroll = kSets;
  long k = 0;
  for (; k + kUnroll <= count; k += kUnroll) {
#pragma GCC unroll 4
    for (int i = 0; i < kUnroll; ++i) multiply_add(i % kSets);
  }
  for (; k < count; ++k) multiply_add(0);
#pragma GCC unroll 16
  for (int c = 0; c < kColumns; ++c) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      Vector sum = sums[0][c][v];
      if (kSets == 2) sum += sums[1 % kSets][c][v];
      store(out + c * kStride + v * kLanes, max(floor, sum));
    }
  }
}

template <int kVectors, int kColumns>
FUSED_INLINE void lane_tile_of(int columns, const float* in, const float* weights, long count,
                               const float* bias, Vector floor, float* out) {
  if constexpr (kColumns > 1) {
    if (columns < kColumns) {
      return lane_tile_of<kVectors, kColumns - 1>(columns, in, weights, count, bias, floor, out);
    }
  }
  lane_tile<kVectors, kColumns>(in, weights, count, bias, floor, out);
}

/// `in` and `out` hold kVectors * kLanes rows side by side for each column.
template <int kVectors>
void dense_lanes(const Step& step, const float* in, float* out) {
  constexpr int kStride = kVectors * kLanes;
  const int outputs = step.out.width;
  const int panels = (outputs + kPanelColumns - 1) / kPanelColumns;
  const int narrow = outputs / panels;
  const int wide_panels = outputs % panels;
  const bool in_registers = is_floor(step.function.function);
  const float* weights = step.lane_weights;
  for (int start = 0; start < step.a.width; start += kBlock) {
    const int count = step.a.width - start < kBlock ? step.a.width - start : kBlock;
    const bool last = start + count == step.a.width;
    const Vector floor = floor_of(last && in_registers ? step.function.function : Function::identity);
    int column = 0;
    for (int panel = 0; panel < panels; ++panel) {
      const int columns = narrow + (panel < wide_panels ? 1 : 0);
      float* target = out + static_cast<long>(column) * kStride;
      lane_tile_of<kVectors, kPanelColumns>(columns, in + static_cast<long>(start) * kStride, weights, count,
                                            start == 0 ? step.bias + column : nullptr, floor, target);
      if (last && !in_registers) apply_function(step.function, target, target, columns * kVectors);
      weights += static_cast<long>(count) * columns;
      column += columns;
    }
  }
}

// Columns in lanes.

/// One register tile: `kRows` rows of `kVectors` vectors of columns, over all inputs.
template <int kRows, int kVectors>
void column_tile(const float* in, long stride, const float* weights, long count, const float* bias,
                 Vector floor, float* out) {
  constexpr int kTile = kRows * kVectors;
  constexpr int kFull = kTileRows * kTileVectors;
  constexpr int kSets = kTile * 4 <= kFull ? 4 : kTile * 2 <= kFull ? 2 : 1;
  Vector sums[kSets][kRows][kVectors];
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      sums[0][r][v] = load(bias + v * kLanes);
#pragma GCC unroll 4
      for (int set = 1; set < kSets; ++set) sums[set][r][v] = splat(0.0F);
    }
  }
  const auto multiply_add = [&](int set, long k) __attribute__((always_inline)) {
    Vector columns[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) columns[v] = load(weights + (k * kVectors + v) * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Vector value = splat(in[r * stride + k]);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sums[set][r][v] = fma(value, columns[v], sums[set][r][v]);
    }
  };
  long k = 0;
  for (; k + kSets <= count; k += kSets) {
#pragma GCC unroll 4
    for (int set = 0; set < kSets; ++set) multiply_add(set, k + set);
  }
#pragma GCC unroll 4
  for (int set = 0; set < kSets - 1; ++set) {
    if (k + set < count) multiply_add(set, k + set);
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      Vector sum = sums[0][r][v];
      if (kSets > 1) sum += sums[1 % kSets][r][v];
      if (kSets > 2) sum += sums[2 % kSets][r][v] + sums[3 % kSets][r][v];
      store(out + r * stride + v * kLanes, max(floor, sum));
    }
  }
}

template <int kRows, int kVectors>
FUSED_INLINE void column_tile_of(int rows, int vectors, const float* in, long stride, const float* weights,
                                 long count, const float* bias, Vector floor, float* out) {
  if constexpr (kVectors > 1) {
    if (vectors < kVectors) {
      return column_tile_of<kRows, kVectors - 1>(rows, vectors, in, stride, weights, count, bias, floor, out);
    }
  }
  if constexpr (kRows > 1) {
    if (rows < kRows) {
      return column_tile_of<kRows - 1, kVectors>(rows, vectors, in, stride, weights, count, bias, floor, out);
    }
  }
  column_tile<kRows, kVectors>(in, stride, weights, count, bias, floor, out);
}

/// All groups of rows pass over one panel of weights before the next one is touched.
void dense_columns(int rows, const Step& step, const float* in, long stride, float* out) {
  const int vectors = (step.out.width + kLanes - 1) / kLanes;
  const int panels = (vectors + kTileVectors - 1) / kTileVectors;
  const int narrow = vectors / panels;
  const int wide_panels = vectors % panels;
  const int groups = (rows + kTileRows - 1) / kTileRows;
  const bool in_registers = is_floor(step.function.function);
  const Vector floor = floor_of(step.function.function);
  const float* weights = step.column_weights;
  int column = 0;
  for (int panel = 0; panel < panels; ++panel) {
    const int width = narrow + (panel < wide_panels ? 1 : 0);
    int row = 0;
    for (int group = 0; group < groups; ++group) {
      const int height = rows / groups + (group < rows % groups ? 1 : 0);
      column_tile_of<kTileRows, kTileVectors>(height, width, in + row * stride, stride, weights, step.a.width,
                                              step.bias + column, floor, out + row * stride + column);
      row += height;
    }
    weights += static_cast<long>(step.a.width) * width * kLanes;
    column += width * kLanes;
  }
  if (in_registers) return;
  for (int r = 0; r < rows; ++r) apply_function(step.function, out + r * stride, out + r * stride, vectors);
}
