// The layout of few rows: rows_in_lanes.inl says what a layout has. Included inside the anonymous namespace
// of each kernels_<isa>.cpp.

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
      for (long c = 0; c < width; ++c) {
        out[r * stride + c] = indices[c] < 0 ? 0.0F : in[r * stride + indices[c]];
      }
    }
  }

  /// Every lane keeps the first of its columns, then the lanes exchange theirs. A long list is one of single
  /// values, on which the vector operations work. All columns are there at once.
  template <typename Value, typename Before, typename After>
  FUSED_INLINE void extremes(Value value, int width, int wanted, Vector worst, Before before, After after,
                             float* out, bool /*goes_on*/) const {
    const auto at_column = [this, value](long r, long c)
                               FUSED_LAMBDA { return value(Place{r * stride + c, c, r * stride}); };
    const bool is_short = with_selection(wanted, [&](auto selection) {
      for (long r = 0; r < rows; ++r) {
        selection.start(worst);
        auto& first = selection.first;
        long c = 0;
        for (; c + kPlayers * kLanes <= width; c += kPlayers * kLanes) {
          Vector players[kPlayers];
#pragma GCC unroll 8
          for (long i = 0; i < kPlayers; ++i) players[i] = at_column(r, c + i * kLanes);
          selection.add_group(players, before, after);
        }
        for (; c + kLanes <= width; c += kLanes) first.insert(at_column(r, c), before, after);
        if (c < width) first.insert(select(first_lanes(width - c), at_column(r, c), worst), before, after);
        selection.add_losers(before, after);
        if constexpr (kLanes > 8) first.template insert_other_lanes<8>(before, after);
        if constexpr (kLanes > 4) first.template insert_other_lanes<4>(before, after);
        first.template insert_other_lanes<2>(before, after);
        first.template insert_other_lanes<1>(before, after);
#pragma GCC unroll 8
        for (int i = 0; i < selection.kLength; ++i) {
          if (i < wanted) out[r * stride + i] = first.held[i][0];
        }
      }
    });
    if (is_short) return;
    for (long r = 0; r < rows; ++r) {
      float* sorted = out + r * stride;
      for (long i = 0; i < wanted; ++i) sorted[i] = worst[0];
      for (long c = 0; c < width; ++c) {
        const Vector columns = at_column(r, c / kLanes * kLanes);
        Vector candidate = splat(columns[c % kLanes]);
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

  /// total + what kCount trees a lane, from `first` on, add for `row`.
  template <int kCount>
  static FUSED_INLINE Vector add_leaves(const Trees& trees, int first, const float* row, Vector total) {
    IntVector nodes[kCount];
#pragma GCC unroll 8
    for (int i = 0; i < kCount; ++i) nodes[i] = load_ints(trees.roots + first + i * kLanes);
    const auto place = [](int, IntVector feature) FUSED_LAMBDA { return feature; };
    descend(trees, trees.depths[first + kCount * kLanes - 1], row, place, nodes);
#pragma GCC unroll 8
    for (int i = 0; i < kCount; ++i) total += gather_lanes(trees.leaves, nodes[i]);
    return total;
  }

  FUSED_INLINE void trees(const Step& step) const {
    const Trees& trees = *step.trees;
    for (long r = 0; r < rows; ++r) {
      const float* row = at(step.a) + r * stride;
      Vector total{};
      int first = 0;
      for (; first + 4 * kLanes <= trees.count; first += 4 * kLanes) {
        total = add_leaves<4>(trees, first, row, total);
      }
      for (; first + 2 * kLanes <= trees.count; first += 2 * kLanes) {
        total = add_leaves<2>(trees, first, row, total);
      }
      if (first < trees.count) total = add_leaves<1>(trees, first, row, total);
      if constexpr (kLanes > 8) total += swap_lanes<8>(total);
      if constexpr (kLanes > 4) total += swap_lanes<4>(total);
      total += swap_lanes<2>(total);
      total += swap_lanes<1>(total);
      store(at(step.out) + r * stride, total);
    }
  }

  FUSED_INLINE void dense(const Step& step) const {
    const auto run = step.chains == 1 ? dense_columns<1> : dense_columns<2>;
    for (long w = 0; w < step.windows; ++w) {
      run(rows, step, at(step.a) + w * step.step, stride, at(step.out) + w * step.out.width);
    }
  }

  FUSED_INLINE void distances(const Step& step) const {
    distances_of_columns(rows, step, at(step.a), stride, at(step.out));
  }

  /// All columns at once.
  template <typename Take>
  FUSED_INLINE void in_parts(const Step& step, Take take) const {
    if (step.op == Op::dense) {
      dense(step);
    } else {
      distances(step);
    }
    take(0, step.out.width);
  }

  FUSED_INLINE void pack_words(const Step& step) const {
    step.words->pack_few(step, at(step.a), rows, stride, at(step.out));
  }

  FUSED_INLINE void multiply_words(const Step& step) const {
    step.words->multiply_few(step, at(step.a), rows, stride, at(step.out));
  }
};
