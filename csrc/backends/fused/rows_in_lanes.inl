// The two ways a block of rows can lie in its frame, behind one interface: the element-wise and reducing
// steps are written once. Here is that of many rows; columns_in_lanes.inl has that of few. Included inside
// the anonymous namespace of each kernels_<isa>.cpp.
//
// A layout has
//   at(columns)           where a value begins
//   each(width, f)        f(place) for every vector of a value of that width
//   reduce(width, ...)    folds the columns of each row, in an order that depends on the width alone
// and a place has
//   offset                of the vector from the value's beginning
//   constant(p)           the per-column constants p for this vector
//   narrow(base)          a value of width 1, repeated

/// Transposes within each group of four lanes; its own inverse.
FUSED_INLINE void transpose_groups(Vector (&v)[4]) {
  const Vector low01 = interleave_low(v[0], v[1]);
  const Vector low23 = interleave_low(v[2], v[3]);
  const Vector high01 = interleave_high(v[0], v[1]);
  const Vector high23 = interleave_high(v[2], v[3]);
  v[0] = join_low(low01, low23);
  v[1] = join_high(low01, low23);
  v[2] = join_low(high01, high23);
  v[3] = join_high(high01, high23);
}

template <int kVectors>
struct RowsInLanes {
  static constexpr int kStride = kVectors * kLanes;
  float* frame;

  struct Place {
    long offset;
    long column;
    long vector;
    FUSED_INLINE Vector constant(const float* p) const { return splat(p[column]); }
    FUSED_INLINE Vector narrow(const float* base) const { return load(base + vector * kLanes); }
  };

  FUSED_INLINE float* at(Columns value) const { return frame + static_cast<long>(value.offset) * kStride; }

  template <typename Body>
  FUSED_INLINE void each(int width, Body body) const {
    for (long c = 0; c < width; ++c) {
#pragma GCC unroll 4
      for (long v = 0; v < kVectors; ++v) body(Place{c * kStride + v * kLanes, c, v});
    }
  }

  static constexpr long kChains = 4;  ///< Columns whose totals are in flight together.
  struct Totals {
    Vector of[kChains][kVectors];
  };

  /// The totals of the columns first + i, first + i + kStep, ... A row's columns in lanes have one total a
  /// lane, and then lane i is combined with lane i + kLanes / 2 and so on; here is the same order.
  template <long kStep, typename Fold, typename Combine>
  static FUSED_INLINE Totals fold_columns(long first, long width, Vector start, Fold fold, Combine combine) {
    Totals totals;
#pragma GCC unroll 8
    for (long i = 0; i < kChains * kVectors; ++i) totals.of[i / kVectors][i % kVectors] = start;
    const auto fold_column = [&](long chain, long c) FUSED_LAMBDA {
#pragma GCC unroll 4
      for (long v = 0; v < kVectors; ++v) {
        totals.of[chain][v] = fold(totals.of[chain][v], Place{c * kStride + v * kLanes, c, v});
      }
    };
    if constexpr (kStep < kLanes) {
      if (width > kStep) {
        totals = fold_columns<2 * kStep>(first, width, start, fold, combine);
        const Totals others = fold_columns<2 * kStep>(first + kStep, width, start, fold, combine);
#pragma GCC unroll 8
        for (long i = 0; i < kChains * kVectors; ++i) {
          Vector& total = totals.of[i / kVectors][i % kVectors];
          total = combine(total, others.of[i / kVectors][i % kVectors]);
        }
        return totals;
      }
    }
    long c = first;
    for (; c + kChains <= width; c += kStep) {
#pragma GCC unroll 4
      for (long chain = 0; chain < kChains; ++chain) fold_column(chain, c + chain);
    }
#pragma GCC unroll 4
    for (long chain = 0; chain < kChains - 1; ++chain) {
      if (c + chain < width) fold_column(chain, c + chain);
    }
    return totals;
  }

  template <typename Fold, typename Combine, typename Finish>
  FUSED_INLINE void reduce(int width, Vector start, Fold fold, Combine combine, Finish finish,
                           float* out) const {
    const auto [of] = fold_columns<kChains>(0, width, start, fold, combine);
#pragma GCC unroll 4
    for (long v = 0; v < kVectors; ++v) {
      store(out + v * kLanes, finish(combine(combine(of[0][v], of[2][v]), combine(of[1][v], of[3][v]))));
    }
  }

  FUSED_INLINE void copy(const float* in, int width, float* out) const {
    for (long i = 0; i < static_cast<long>(width) * kVectors; ++i)
      store(out + i * kLanes, load(in + i * kLanes));
  }

  FUSED_INLINE void gather(const float* in, const int* indices, int width, float* out) const {
    for (long c = 0; c < width; ++c) {
      const long index = indices[c];
      for (long v = 0; v < kVectors; ++v) {
        store(out + c * kStride + v * kLanes,
              index < 0 ? splat(0.0F) : load(in + index * kStride + v * kLanes));
      }
    }
  }

  /// The first of the columns by `before`, which keeps what comes first, as `after` does the rest. With
  /// `goes_on`, `out` holds those of earlier columns, among which these are to be.
  template <typename Value, typename Before, typename After>
  FUSED_INLINE void extremes(Value value, int width, int wanted, Vector worst, Before before, After after,
                             float* out, bool goes_on) const {
    const auto at_column = [=](long c, long v)
                               FUSED_LAMBDA { return value(Place{c * kStride + v * kLanes, c, v}); };
    const bool is_short = with_selection(wanted, [&](auto selection) {
      // All vectors of rows in one loop, so that they fill each other's latencies.
      decltype(selection) of[kVectors];
#pragma GCC unroll 4
      for (long v = 0; v < kVectors; ++v) {
        of[v].start(worst);
        if (!goes_on) continue;
#pragma GCC unroll 8
        for (int i = 0; i < selection.kLength; ++i) {
          if (i < wanted) of[v].first.held[i] = load(out + i * kStride + v * kLanes);
        }
      }
      long c = 0;
      for (; c + kPlayers <= width; c += kPlayers) {
#pragma GCC unroll 4
        for (long v = 0; v < kVectors; ++v) {
          Vector players[kPlayers];
#pragma GCC unroll 8
          for (long i = 0; i < kPlayers; ++i) players[i] = at_column(c + i, v);
          of[v].add_group(players, before, after);
        }
      }
      for (; c < width; ++c) {
#pragma GCC unroll 4
        for (long v = 0; v < kVectors; ++v) of[v].first.insert(at_column(c, v), before, after);
      }
#pragma GCC unroll 4
      for (long v = 0; v < kVectors; ++v) {
        of[v].add_losers(before, after);
#pragma GCC unroll 8
        for (int i = 0; i < selection.kLength; ++i) {
          if (i < wanted) store(out + i * kStride + v * kLanes, of[v].first.held[i]);
        }
      }
    });
    if (is_short) return;
    for (long i = 0; !goes_on && i < static_cast<long>(wanted) * kVectors; ++i)
      store(out + i * kLanes, worst);
    for (long c = 0; c < width; ++c) {
      for (long v = 0; v < kVectors; ++v) {
        Vector candidate = at_column(c, v);
        for (long i = 0; i < wanted; ++i) {
          float* slot = out + i * kStride + v * kLanes;
          const Vector held = load(slot);
          store(slot, before(held, candidate));
          candidate = after(held, candidate);
        }
      }
    }
  }

  /// Turns row-major rows into columns; rows beyond the last repeat it, so that no lane holds garbage.
  FUSED_INLINE void read(const float* input, int rows, int width, float* out) const {
    if (rows == kStride) {
      read_rows([=](long row) { return input + row * width; }, width, out);
    } else {
      read_rows([=](long row) { return input + (row < rows ? row : rows - 1) * width; }, width, out);
    }
  }

  /// The inverse of `read`.
  FUSED_INLINE void write(const float* in, int rows, int width, float* output) const {
    if (rows == kStride) {
      write_rows(in, [=](long row) { return output + row * width; }, width);
    } else {
      write_rows(in, [=](long row) { return row < rows ? output + row * width : nullptr; }, width);
    }
  }

  FUSED_INLINE void write_column(const float* in, int rows, float* output) const {
    if (rows == kStride) {
      copy(in, 1, output);
    } else {
      for (long row = 0; row < rows; ++row) output[row] = in[row];
    }
  }

  template <typename Rows>
  static FUSED_INLINE void read_rows(const Rows& rows, int width, float* out) {
    for (long first = 0; first < kStride; first += kLanes) {
      float* target = out + first;
      long c = 0;
      for (; c + 4 <= width; c += 4, target += 4 * kStride) {
        // Lane group g of part[i] is row 4 g + i, so after the transposition the rows are in order.
        Vector part[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) part[i] = load_groups(rows, first + i, c);
        transpose_groups(part);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) store(target + i * kStride, part[i]);
      }
      for (; c < width; ++c, target += kStride) {
        for (long lane = 0; lane < kLanes; ++lane) target[lane] = rows(first + lane)[c];
      }
    }
  }

  template <typename Rows>
  static FUSED_INLINE void write_rows(const float* in, const Rows& rows, int width) {
    for (long first = 0; first < kStride; first += kLanes) {
      const float* source = in + first;
      long c = 0;
      for (; c + 4 <= width; c += 4, source += 4 * kStride) {
        Vector part[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) part[i] = load(source + i * kStride);
        transpose_groups(part);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) store_groups(part[i], rows, first + i, c);
      }
      for (; c < width; ++c, source += kStride) {
        for (long lane = 0; lane < kLanes; ++lane) {
          if (float* row = rows(first + lane)) row[c] = source[lane];
        }
      }
    }
  }

  FUSED_INLINE void apply(FunctionCall function, const float* in, int width, float* out) const {
    apply_function(function, in, out, static_cast<long>(width) * kVectors);
  }

  FUSED_INLINE void trees(const Step& step) const {
    constexpr int kTrees = 2;  // Side by side, so that they fill each other's latencies.
    const Trees& trees = *step.trees;
    // By the tree's place modulo the lanes: the order in which the other layout adds up.
    Vector totals[kLanes][kVectors] = {};
    for (int first = 0; first < trees.count; first += kTrees) {
      IntVector nodes[kTrees * kVectors];
#pragma GCC unroll 8
      for (int i = 0; i < kTrees * kVectors; ++i) nodes[i] = trees.roots[first + i / kVectors] - IntVector{};
      const auto place = [](int i, IntVector feature) FUSED_LAMBDA {
        return feature * kStride + (lane_numbers() + i % kVectors * kLanes);
      };
      descend(trees, trees.depths[first + kTrees - 1], at(step.a), place, nodes);
#pragma GCC unroll 8
      for (int i = 0; i < kTrees * kVectors; ++i) {
        totals[(first + i / kVectors) % kLanes][i % kVectors] += gather_lanes(trees.leaves, nodes[i]);
      }
    }
    for (int by = kLanes / 2; by > 0; by /= 2) {
      for (int i = 0; i < by * kVectors; ++i) {
        totals[i / kVectors][i % kVectors] += totals[by + i / kVectors][i % kVectors];
      }
    }
    for (long v = 0; v < kVectors; ++v) store(at(step.out) + v * kLanes, totals[0][v]);
  }

  FUSED_INLINE void dense(const Step& step) const {
    const auto run = step.chains == 1 ? dense_lanes<1, kVectors> : dense_lanes<2, kVectors>;
    for (long w = 0; w < step.windows; ++w) {
      run(step, at(step.a) + w * step.step * kStride, at(step.out) + w * step.out.width * kStride);
    }
  }

  FUSED_INLINE void distances(const Step& step) const {
    lane_parts<true, kVectors>(step, at(step.a), at(step.out), step.out.width, [](long, int) {});
  }

  /// A layer or distances in parts of a few columns; `take(first, count)` finds each where the first part
  /// lies.
  template <typename Take>
  FUSED_INLINE void in_parts(const Step& step, Take take) const {
    const auto run =
        step.op == Op::dense ? lane_parts<false, kVectors, Take> : lane_parts<true, kVectors, Take>;
    run(step, at(step.a), at(step.out), kPartColumns, take);
  }

  FUSED_INLINE void pack_words(const Step& step) const {
    step.words->pack_panel(step, at(step.a), at(step.out));
  }

  FUSED_INLINE void multiply_words(const Step& step) const {
    step.words->multiply_panel(step, at(step.a), at(step.out));
  }
};
