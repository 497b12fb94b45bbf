// Dense layers. Included inside the anonymous namespace of each kernels_<isa>.cpp.

/// The cheap functions are applied to the accumulators: identity as max(-inf, x), ReLU as max(0, x).
FUSED_INLINE Vector floor_of(Function function) {
  return splat(function == Function::relu ? 0.0F : -__builtin_inff());
}

FUSED_INLINE bool is_floor(Function function) {
  return function == Function::relu || function == Function::identity;
}

/// `count` cut into the fewest pieces of at most `largest`, as even as possible.
struct Cut {
  int pieces;
  int smaller;
  int larger_pieces;

  FUSED_INLINE Cut(int count, int largest) : pieces(1), smaller(count), larger_pieces(0) {
    if (count <= largest) return;  // without divisions, which cost as much as a small layer
    pieces = (count + largest - 1) / largest;
    smaller = count / pieces;
    larger_pieces = count % pieces;
  }

  FUSED_INLINE int size(int piece) const { return smaller + (piece < larger_pieces ? 1 : 0); }
};

// Every tile adds up an output in the same order, whatever the number of rows: from the bias on, in blocks of
// `kBlock` inputs, each in `kChains` sums (every second input in the second) that are then added.

// Rows in lanes.

/// One register tile: `kColumns` columns of `kVectors` vectors of rows, over `count` inputs. Starts from the
/// bias, or from the partial sums in `out` when that is null.
template <int kChains, int kVectors, int kColumns>
void lane_tile(const float* in, const float* weights, long count, const float* bias, Vector floor,
               float* out) {
  constexpr int kStride = kVectors * kLanes;
  Vector sums[kChains][kColumns][kVectors];
#pragma GCC unroll 16
  for (int c = 0; c < kColumns; ++c) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      sums[0][c][v] = bias != nullptr ? splat(bias[c]) : load(out + c * kStride + v * kLanes);
      if (kChains == 2) sums[1 % kChains][c][v] = splat(0.0F);
    }
  }
  const auto multiply_add = [&](int chain) FUSED_LAMBDA {
    Vector rows[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) rows[v] = load(in + v * kLanes);
    const Factors<kColumns> factors = load_factors<kColumns>(weights);
#pragma GCC unroll 16
    for (int c = 0; c < kColumns; ++c) {
      const Vector weight = splat(factors[c]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[chain][c][v] = fma(rows[v], weight, sums[chain][c][v]);
    }
    in += kStride;
    weights += kColumns;
  };
  long k = 0;
  for (; k + kChains <= count; k += kChains) {
#pragma GCC unroll 2
    for (int chain = 0; chain < kChains; ++chain) multiply_add(chain);
  }
  for (; k < count; ++k) multiply_add(0);
#pragma GCC unroll 16
  for (int c = 0; c < kColumns; ++c) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      Vector sum = sums[0][c][v];
      if (kChains == 2) sum += sums[1 % kChains][c][v];
      store(out + c * kStride + v * kLanes, max(floor, sum));
    }
  }
}

template <int kChains, int kVectors, int kColumns = kPanelColumns / kChains>
FUSED_INLINE void lane_tile_of(int columns, const float* in, const float* weights, long count,
                               const float* bias, Vector floor, float* out) {
  if constexpr (kColumns > 1) {
    if (columns < kColumns) {
      return lane_tile_of<kChains, kVectors, kColumns - 1>(columns, in, weights, count, bias, floor, out);
    }
  }
  lane_tile<kChains, kVectors, kColumns>(in, weights, count, bias, floor, out);
}

/// `in` and `out` hold kVectors * kLanes rows side by side for each column.
template <int kChains, int kVectors>
void dense_lanes(const Step& step, const float* in, float* out) {
  constexpr int kStride = kVectors * kLanes;
  const Cut panels(step.out.width, kPanelColumns / kChains);
  const bool in_registers = is_floor(step.function.function);
  const float* weights = step.lane_weights;
  for (int start = 0; start < step.a.width; start += kBlock) {
    const int count = step.a.width - start < kBlock ? step.a.width - start : kBlock;
    const bool last = start + count == step.a.width;
    const Vector floor = floor_of(last && in_registers ? step.function.function : Function::identity);
    int column = 0;
    for (int panel = 0; panel < panels.pieces; ++panel) {
      const int columns = panels.size(panel);
      float* target = out + static_cast<long>(column) * kStride;
      lane_tile_of<kChains, kVectors>(columns, in + static_cast<long>(start) * kStride, weights, count,
                                      start == 0 ? step.bias + column : nullptr, floor, target);
      if (last && !in_registers) apply_function(step.function, target, target, columns * kVectors);
      weights += static_cast<long>(count) * columns;
      column += columns;
    }
  }
}

// Columns in lanes.

/// Most pairs of vectors of columns in a tile of so many rows.
constexpr int tile_pairs(int chains, int rows) {
  const int pairs = kTileSums / (2 * chains * rows);
  return pairs < 1 ? 1 : pairs < kTilePairs ? pairs : kTilePairs;
}

/// One register tile: `kRows` rows of `kVectors` vectors of columns, over all inputs.
template <int kChains, int kRows, int kVectors>
void column_tile(const float* in, long stride, const float* weights, long count, const float* bias,
                 Vector floor, float* out) {
  Vector sums[kChains][kRows][kVectors];
#pragma GCC unroll 16
  for (int v = 0; v < kVectors; ++v) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) sums[0][r][v] = load(bias + v * kLanes);
  }
  const auto multiply_add = [&](int chain, long k) FUSED_LAMBDA {
    Vector columns[kVectors];
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) {
      columns[v] = load(weights + (v / 2) * 2 * kLanes * count + (2 * k + v % 2) * kLanes);
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Vector value = splat(in[r * stride + k]);
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) sums[chain][r][v] = fma(value, columns[v], sums[chain][r][v]);
    }
  };
  // With one chain, blocks make no difference.
  for (long k = 0; k < count;) {
    const long end = kChains == 1 || count - k < kBlock ? count : k + kBlock;
    if constexpr (kChains == 2) {
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) {
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) sums[1][r][v] = splat(0.0F);
      }
    }
    for (; k + kChains <= end; k += kChains) {
#pragma GCC unroll 2
      for (int chain = 0; chain < kChains; ++chain) multiply_add(chain, k + chain);
    }
    for (; k < end; ++k) multiply_add(0, k);
    if constexpr (kChains == 2) {
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) {
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) sums[0][r][v] += sums[1][r][v];
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) store(out + r * stride + v * kLanes, max(floor, sums[0][r][v]));
  }
}

template <int kChains, int kRows, int kVectors = 2 * tile_pairs(kChains, kRows)>
FUSED_INLINE void column_tile_of(int vectors, const float* in, long stride, const float* weights, long count,
                                 const float* bias, Vector floor, float* out) {
  if constexpr (kVectors > 1) {
    if (vectors < kVectors) {
      return column_tile_of<kChains, kRows, kVectors - 1>(vectors, in, stride, weights, count, bias, floor,
                                                          out);
    }
  }
  column_tile<kChains, kRows, kVectors>(in, stride, weights, count, bias, floor, out);
}

/// In groups of at most `kRows` rows, which all pass over the weights of one tile before the next ones are
/// touched.
template <int kChains, int kRows = kTileRows / kChains>
void dense_columns(int rows, const Step& step, const float* in, long stride, float* out) {
  const Cut groups(rows, kTileRows / kChains);
  if constexpr (kRows > 1) {
    if (groups.size(0) < kRows) return dense_columns<kChains, kRows - 1>(rows, step, in, stride, out);
  }
  const int vectors = (step.out.width + kLanes - 1) / kLanes;
  const Cut tiles((vectors + 1) / 2, tile_pairs(kChains, kRows));
  const bool in_registers = is_floor(step.function.function);
  const Vector floor = floor_of(step.function.function);
  int vector = 0;
  for (int tile = 0; tile < tiles.pieces; ++tile) {
    const int wanted = 2 * tiles.size(tile);
    const int width = vector + wanted > vectors ? vectors - vector : wanted;
    const long column = static_cast<long>(vector) * kLanes;
    const float* weights = step.column_weights + column * step.a.width;
    int row = 0;
    for (int group = 0; group < groups.pieces; ++group) {
      const auto run = [&](auto run_tile) {
        run_tile(width, in + row * stride, stride, weights, step.a.width, step.bias + column, floor,
                 out + row * stride + column);
      };
      if (groups.size(group) == kRows) {
        run(column_tile_of<kChains, kRows>);
      } else {
        run(column_tile_of < kChains, kRows == 1 ? 1 : kRows - 1 >);
      }
      row += groups.size(group);
    }
    vector += wanted;
  }
  if (in_registers) return;
  for (int r = 0; r < rows; ++r) apply_function(step.function, out + r * stride, out + r * stride, vectors);
}
