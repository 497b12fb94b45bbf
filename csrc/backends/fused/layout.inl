// The two ways a block of rows can lie in its frame, behind one interface: the element-wise and reducing
// steps are written once. Included inside the anonymous namespace of each kernels_<isa>.cpp.
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

/// The first so many of the values seen, in every lane for itself.
template <int kWanted>
struct Shortlist {
  static constexpr int kLength = kWanted;
  Vector held[kWanted];

  FUSED_INLINE void start(Vector worst) {
#pragma GCC unroll 8
    for (int i = 0; i < kWanted; ++i) held[i] = worst;
  }

  template <typename Before, typename After>
  FUSED_INLINE void insert(Vector candidate, Before before, After after) {
#pragma GCC unroll 8
    for (int i = 0; i < kWanted; ++i) {
      const Vector first = before(held[i], candidate);
      candidate = after(held[i], candidate);
      held[i] = first;
    }
  }

  /// Inserts what lane i ^ kBy has into lane i.
  template <int kBy, typename Before, typename After>
  FUSED_INLINE void insert_other_lanes(Before before, After after) {
    Vector others[kWanted];
#pragma GCC unroll 8
    for (int i = 0; i < kWanted; ++i) others[i] = swap_lanes<kBy>(held[i]);
#pragma GCC unroll 8
    for (int i = 0; i < kWanted; ++i) insert(others[i], before, after);
  }
};

/// Calls `use` with a Shortlist of the length that is wanted; false if it is too long for registers.
template <int kLength = 8, typename Use>
FUSED_INLINE bool with_shortlist(int wanted, Use use) {
  if (wanted > kLength) return false;
  if constexpr (kLength > 1) {
    if (wanted < kLength) return with_shortlist<kLength - 1>(wanted, use);
  }
  use(Shortlist<kLength>{});
  return true;
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
    for (long c = 0; c < width; ++c) copy(in + static_cast<long>(indices[c]) * kStride, 1, out + c * kStride);
  }

  /// Insertion into a sorted list, all rows at once; `before` keeps what comes first, `after` the rest.
  template <typename Before, typename After>
  FUSED_INLINE void extremes(const float* in, int width, int wanted, Vector worst, Before before, After after,
                             float* out) const {
    const bool is_short = with_shortlist(wanted, [&](auto list) {
      // All vectors of rows in one loop, so that they fill each other's latencies.
      decltype(list) lists[kVectors];
#pragma GCC unroll 4
      for (long v = 0; v < kVectors; ++v) lists[v].start(worst);
      for (long c = 0; c < width; ++c) {
#pragma GCC unroll 4
        for (long v = 0; v < kVectors; ++v) {
          lists[v].insert(load(in + c * kStride + v * kLanes), before, after);
        }
      }
#pragma GCC unroll 4
      for (long v = 0; v < kVectors; ++v) {
#pragma GCC unroll 8
        for (long i = 0; i < list.kLength; ++i) store(out + i * kStride + v * kLanes, lists[v].held[i]);
      }
    });
    if (is_short) return;
    for (long i = 0; i < static_cast<long>(wanted) * kVectors; ++i) store(out + i * kLanes, worst);
    for (long c = 0; c < width; ++c) {
      for (long v = 0; v < kVectors; ++v) {
        Vector candidate = load(in + c * kStride + v * kLanes);
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

  FUSED_INLINE void dense(const Step& step) const {
    const auto run = step.chains == 1 ? dense_lanes<1, kVectors> : dense_lanes<2, kVectors>;
    run(step, at(step.a), at(step.out));
  }

  FUSED_INLINE void pack_words(const Step& step) const {
    step.words->pack_panel(step, at(step.a), at(step.out));
  }

  FUSED_INLINE void multiply_words(const Step& step) const {
    step.words->multiply_panel(step, at(step.a), at(step.out));
  }
};

struct ColumnsInLanes {
  float* frame;
  long stride;
  int rows;

  struct Place {
    long offset;
    long column;
    long row_start;
    FUSED_INLINE Vector constant(const float* p) const { return load(p + column); }
    FUSED_INLINE Vector narrow(const float* base) const { return splat(base[row_start]); }
  };

  FUSED_INLINE float* at(Columns value) const { return frame + value.offset; }

  template <typename Body>
  FUSED_INLINE void each(int width, Body body) const {
    for (long r = 0; r < rows; ++r) {
      for (long c = 0; c < width; c += kLanes) body(Place{r * stride + c, c, r * stride});
    }
  }

  template <typename Fold, typename Combine, typename Finish>
  FUSED_INLINE void reduce(int width, Vector start, Fold fold, Combine combine, Finish finish,
                           float* out) const {
    for (long r = 0; r < rows; ++r) {
      Vector total = start;
      for (long c = 0; c < width; c += kLanes) {
        const Vector folded = fold(total, Place{r * stride + c, c, r * stride});
        // Lanes beyond the width hold whatever the padding led to.
        total = c + kLanes <= width ? folded : select(first_lanes(width - c), folded, total);
      }
      if constexpr (kLanes > 8) total = combine(total, swap_lanes<8>(total));
      if constexpr (kLanes > 4) total = combine(total, swap_lanes<4>(total));
      total = combine(total, swap_lanes<2>(total));
      total = combine(total, swap_lanes<1>(total));
      store(out + r * stride, finish(total));
    }
  }

  FUSED_INLINE void copy(const float* in, int width, float* out) const {
    each(width, [=](Place place) { store(out + place.offset, load(in + place.offset)); });
  }

  FUSED_INLINE void gather(const float* in, const int* indices, int width, float* out) const {
    for (long r = 0; r < rows; ++r) {
      for (long c = 0; c < width; ++c) out[r * stride + c] = in[r * stride + indices[c]];
    }
  }

  /// Every lane keeps the first of its columns, then the lanes exchange theirs. A long list is one of single
  /// values, on which the vector operations work.
  template <typename Before, typename After>
  FUSED_INLINE void extremes(const float* in, int width, int wanted, Vector worst, Before before, After after,
                             float* out) const {
    const bool is_short = with_shortlist(wanted, [&](auto list) {
      for (long r = 0; r < rows; ++r) {
        const float* row = in + r * stride;
        list.start(worst);
        long c = 0;
        for (; c + kLanes <= width; c += kLanes) list.insert(load(row + c), before, after);
        if (c < width) list.insert(select(first_lanes(width - c), load(row + c), worst), before, after);
        if constexpr (kLanes > 8) list.template insert_other_lanes<8>(before, after);
        if constexpr (kLanes > 4) list.template insert_other_lanes<4>(before, after);
        list.template insert_other_lanes<2>(before, after);
        list.template insert_other_lanes<1>(before, after);
#pragma GCC unroll 8
        for (long i = 0; i < list.kLength; ++i) out[r * stride + i] = list.held[i][0];
      }
    });
    if (is_short) return;
    for (long r = 0; r < rows; ++r) {
      float* sorted = out + r * stride;
      for (long i = 0; i < wanted; ++i) sorted[i] = worst[0];
      for (long c = 0; c < width; ++c) {
        Vector candidate = splat(in[r * stride + c]);
        for (long i = 0; i < wanted; ++i) {
          const Vector held = splat(sorted[i]);
          sorted[i] = before(held, candidate)[0];
          candidate = after(held, candidate);
        }
      }
    }
  }

  FUSED_INLINE void read(const float* input, int width, float* out) const {
    for (long r = 0; r < rows; ++r) {
      long c = 0;
      for (; c + kLanes <= width; c += kLanes) store(out + r * stride + c, load(input + r * width + c));
      for (; c < width; ++c) out[r * stride + c] = input[r * width + c];
    }
  }

  FUSED_INLINE void write(const float* in, int width, float* output) const {
    for (long r = 0; r < rows; ++r) {
      for (long c = 0; c < width; ++c) output[r * width + c] = in[r * stride + c];
    }
  }

  FUSED_INLINE void apply(FunctionCall function, const float* in, int width, float* out) const {
    for (long r = 0; r < rows; ++r) {
      apply_function(function, in + r * stride, out + r * stride, (width + kLanes - 1) / kLanes);
    }
  }

  FUSED_INLINE void dense(const Step& step) const {
    const auto run = step.chains == 1 ? dense_columns<1> : dense_columns<2>;
    run(rows, step, at(step.a), stride, at(step.out));
  }

  FUSED_INLINE void pack_words(const Step& step) const {
    step.words->pack_few(step, at(step.a), rows, stride, at(step.out));
  }

  FUSED_INLINE void multiply_words(const Step& step) const {
    step.words->multiply_few(step, at(step.a), rows, stride, at(step.out));
  }
};
