// Runs a program over one block of rows. Included inside the anonymous namespace of each kernels_<isa>.cpp.

/// The constants of one step, copied so that the compiler need not read them again after every store.
struct Constants {
  const float* center;
  const float* scale;
  const float* offset;
  const float* scale_b;
  const float* weights;

  explicit FUSED_INLINE Constants(const Step& step)
      : center(step.center),
        scale(step.scale),
        offset(step.offset),
        scale_b(step.scale_b),
        weights(step.weights) {}

  /// Those of `map`, for the columns from `first` on.
  FUSED_INLINE Constants(const Step& step, long first) : Constants(step) {
    if (center != nullptr) center += first;
    if (scale != nullptr) scale += first;
    if (offset != nullptr) offset += first;
  }

  /// (x - center) scale + offset
  FUSED_INLINE Vector map(const auto& place, Vector x) const {
    if (center != nullptr) x -= place.constant(center);
    if (offset == nullptr) return scale != nullptr ? x * place.constant(scale) : x;
    return scale != nullptr ? fma(x, place.constant(scale), place.constant(offset))
                            : x + place.constant(offset);
  }

  FUSED_INLINE Vector difference(const auto& place, Vector a, Vector b) const {
    const Vector mapped = map(place, a);
    return scale_b != nullptr ? fma(-b, place.constant(scale_b), mapped) : mapped - b;
  }

  /// total + weight x^2
  FUSED_INLINE Vector add_square(const auto& place, Vector total, Vector x) const {
    return fma(weights != nullptr ? x * place.constant(weights) : x, x, total);
  }

  [[nodiscard]] FUSED_INLINE bool none() const {
    return center == nullptr && scale == nullptr && offset == nullptr && scale_b == nullptr &&
           weights == nullptr;
  }
};

template <typename Layout, typename Operation>
FUSED_INLINE void binary(const Layout& layout, const Step& step, Operation operation) {
  const float* a = layout.at(step.a);
  const float* b = layout.at(step.b);
  float* out = layout.at(step.out);
  const bool narrow_a = step.a.width < step.out.width;
  const bool narrow_b = step.b.width < step.out.width;
  layout.each(step.out.width, [=](const auto& place) FUSED_LAMBDA {
    const Vector left = narrow_a ? place.narrow(a) : load(a + place.offset);
    const Vector right = narrow_b ? place.narrow(b) : load(b + place.offset);
    store(out + place.offset, operation(left, right));
  });
}

template <typename Layout, typename Better>
FUSED_INLINE void extreme(const Layout& layout, const Step& step, Vector worst, Better better) {
  const float* a = layout.at(step.a);
  const Constants constants(step);
  layout.reduce(
      step.a.width, worst,
      [=](Vector best, const auto& place)
          FUSED_LAMBDA { return better(best, constants.map(place, load(a + place.offset))); },
      better, [](Vector best) FUSED_LAMBDA { return best; }, layout.at(step.out));
}

template <typename Layout, typename Fold>
FUSED_INLINE void sum(const Layout& layout, const Step& step, Fold fold) {
  const Vector factor = splat(step.factor);
  layout.reduce(
      step.a.width, splat(0.0F), fold, [](Vector x, Vector y) FUSED_LAMBDA { return x + y; },
      [=](Vector total) FUSED_LAMBDA { return total * factor; }, layout.at(step.out));
}

/// The sums of a layer in words become its results.
template <typename Layout>
FUSED_INLINE void finish_words(const Layout& layout, const Step& step) {
  float* out = layout.at(step.out);
  const Vector floor = floor_of(step.function.function);
  if (step.first_sums == nullptr) {
    layout.each(step.out.width, [=](const auto& place) FUSED_LAMBDA {
      store(out + place.offset, max(floor, load(out + place.offset) + place.constant(step.bias)));
    });
  } else {
    const auto* first_sums = reinterpret_cast<const float*>(step.first_sums);
    layout.each(step.out.width, [=](const auto& place) FUSED_LAMBDA {
      const IntVector sums = bits(load(out + place.offset)) + bits(place.constant(first_sums));
      store(out + place.offset,
            max(floor, fma(to_float(sums), place.constant(step.scale), place.constant(step.bias))));
    });
  }
  if (!is_floor(step.function.function)) layout.apply(step.function, out, step.out.width, out);
}

/// Op::smallest and Op::largest of `count` columns, whose constants begin at `first`.
template <typename Layout>
void select_columns(const Layout& layout, const Step& step, long first, int count) {
  const float* a = layout.at(step.a);
  float* out = layout.at(step.out);
  const Constants constants(step, first);
  const Vector infinity = splat(__builtin_inff());
  const auto larger = [](Vector x, Vector y) FUSED_LAMBDA { return max(x, y); };
  const auto smaller = [](Vector x, Vector y) FUSED_LAMBDA { return min(x, y); };
  const auto take = [&](auto value) FUSED_LAMBDA {
    if (step.op == Op::smallest) {
      layout.extremes(value, count, step.out.width, infinity, smaller, larger, out, first > 0);
    } else {
      layout.extremes(value, count, step.out.width, -infinity, larger, smaller, out, first > 0);
    }
  };
  if (constants.none()) {
    take([=](const auto& place) FUSED_LAMBDA { return load(a + place.offset); });
  } else {
    take([=](const auto& place) FUSED_LAMBDA { return constants.map(place, load(a + place.offset)); });
  }
}

template <typename Layout>
void run_step(const Layout& layout, const Step& step) {
  const float* a = layout.at(step.a);
  const float* b = layout.at(step.b);
  float* out = layout.at(step.out);
  const int width = step.out.width;
  const Constants constants(step);
  const auto larger = [](Vector x, Vector y) FUSED_LAMBDA { return max(x, y); };
  const auto smaller = [](Vector x, Vector y) FUSED_LAMBDA { return min(x, y); };
  const auto value_of_a = [=](const auto& place) FUSED_LAMBDA { return load(a + place.offset); };
  const Vector infinity = splat(__builtin_inff());
  switch (step.op) {
    case Op::dense:
      if (step.words == nullptr) {
        layout.dense(step);
        if (step.centres != nullptr) measure_near(layout, step, 0, width);
      } else {
        layout.multiply_words(step);
        finish_words(layout, step);
      }
      break;
    case Op::pack: layout.pack_words(step); break;
    case Op::apply: layout.apply(step.function, a, width, out); break;
    case Op::affine:
      layout.each(width, [=](const auto& place) FUSED_LAMBDA {
        store(out + place.offset, constants.map(place, load(a + place.offset)));
      });
      break;
    case Op::difference:
      layout.each(width, [=](const auto& place) FUSED_LAMBDA {
        store(out + place.offset,
              constants.difference(place, load(a + place.offset), load(b + place.offset)));
      });
      break;
    case Op::add: binary(layout, step, [](Vector x, Vector y) FUSED_LAMBDA { return x + y; }); break;
    case Op::subtract: binary(layout, step, [](Vector x, Vector y) FUSED_LAMBDA { return x - y; }); break;
    case Op::multiply: binary(layout, step, [](Vector x, Vector y) FUSED_LAMBDA { return x * y; }); break;
    case Op::divide: binary(layout, step, [](Vector x, Vector y) FUSED_LAMBDA { return x / y; }); break;
    case Op::minimum: binary(layout, step, smaller); break;
    case Op::maximum: binary(layout, step, larger); break;
    case Op::copy: layout.copy(a, width, out); break;
    case Op::gather: layout.gather(a, step.indices, width, out); break;
    case Op::sum:
      sum(layout, step, [=](Vector total, const auto& place) FUSED_LAMBDA {
        const Vector x = value_of_a(place);
        return constants.weights != nullptr ? fma(x, place.constant(constants.weights), total) : total + x;
      });
      break;
    case Op::sum_squares:
      sum(layout, step, [=](Vector total, const auto& place) FUSED_LAMBDA {
        return constants.add_square(place, total, constants.map(place, value_of_a(place)));
      });
      break;
    case Op::sum_difference:
      if (constants.none()) {
        sum(layout, step, [=](Vector total, const auto& place) FUSED_LAMBDA {
          const Vector d = value_of_a(place) - load(b + place.offset);
          return fma(d, d, total);
        });
      } else {
        sum(layout, step, [=](Vector total, const auto& place) FUSED_LAMBDA {
          const Vector d = constants.difference(place, value_of_a(place), load(b + place.offset));
          return constants.add_square(place, total, d);
        });
      }
      break;
    case Op::min_columns: extreme(layout, step, infinity, smaller); break;
    case Op::max_columns: extreme(layout, step, -infinity, larger); break;
    case Op::smallest:
    case Op::largest: select_columns(layout, step, 0, step.a.width); break;
    case Op::trees: layout.trees(step); break;
    case Op::distances:
      layout.distances(step);
      if (step.factor != 1) {
        layout.each(width, [=, factor = splat(step.factor)](const auto& place) FUSED_LAMBDA {
          store(out + place.offset, load(out + place.offset) * factor);
        });
      }
      if (step.function.function != Function::identity) layout.apply(step.function, out, width, out);
      break;
  }
}

/// The takers behind a layer take `count` of its columns. Where distances turn out to be near as they are
/// taken, those are measured and taken again.
template <typename Layout>
void take_columns(const Layout& layout, const Step* layer, long first, int count) {
  const auto take = [=] {
    for (int i = 1; i <= layer->takers; ++i) select_columns(layout, layer[i], first, count);
  };
  if (layer->largest_gain == 0) {
    if (layer->centres != nullptr) measure_near(layout, *layer, first, count);
    return take();
  }
  float kept[kMostKept * 2 * kLanes];  // Of a panel's rows.
  if (first > 0) keep_lists(layout, layer, kept);
  take();
  if (!has_near(layout, *layer, layer[1].out) || !measure_near(layout, *layer, first, count)) return;
  if (first > 0) restore_lists(layout, layer, kept);
  take();
}

/// A step, and the takers behind it together with it, so that a layer's results stay in the first-level
/// cache.
template <typename Layout>
void run_with_takers(const Layout& layout, const Step* step) {
  if (step->takers == 0) return run_step(layout, *step);
  layout.in_parts(*step,
                  [&](long first, int count) FUSED_LAMBDA { take_columns(layout, step, first, count); });
}

/// Rows of one panel: a register tile is two vectors high.
constexpr int kPanelRows = 2 * kLanes;
using Panel = RowsInLanes<2>;

/// Only what is asked for is computed.
FUSED_INLINE int steps_for(const ProgramView& program, const Block& block) {
  if (block.contributions != nullptr) return program.all_steps;
  return block.output != nullptr ? program.output_steps : program.score_steps;
}

void run_few(const ProgramView& program, const Block& block, float* frame) {
  const ColumnsInLanes layout{frame, program.frame_columns, block.rows};
  layout.read(block.input, program.input.width, layout.at(program.input));
  if (block.state != nullptr) {
    layout.read(block.state, program.state.width, layout.at(program.state));
  } else {
    layout.each(program.state.width, [&](const auto& place) FUSED_LAMBDA {
      store(layout.at(program.state) + place.offset, splat(0.0F));
    });
  }
  const int steps = steps_for(program, block);
  if (program.words != nullptr) program.words->begin(block.rows);
  for (int i = 0; i < steps; i += 1 + program.steps[i].takers) run_with_takers(layout, program.steps + i);
  if (program.words != nullptr) program.words->end();
  const auto write = [&](Columns value, float* target) {
    if (target != nullptr) layout.write(layout.at(value), value.width, target);
  };
  write(program.score, block.scores);
  write(program.output, block.output);
  write(program.contributions, block.contributions);
  write(program.state_next, block.state_next);
}

void run_block(const ProgramView& program, const Block& block, float* frame) {
  const int panels = (block.rows + kPanelRows - 1) / kPanelRows;
  const auto panel = [&](int index) {
    return Panel{frame + static_cast<long>(index) * kPanelRows * program.frame_columns};
  };
  const auto rows_of = [&](int index) {
    return index + 1 < panels ? kPanelRows : block.rows - index * kPanelRows;
  };
  for (int p = 0; p < panels; ++p) {
    const long first = static_cast<long>(p) * kPanelRows;
    panel(p).read(block.input + first * program.input.width, rows_of(p), program.input.width,
                  panel(p).at(program.input));
    if (block.state != nullptr) {
      panel(p).read(block.state + first * program.state.width, rows_of(p), program.state.width,
                    panel(p).at(program.state));
    } else {
      float* state = panel(p).at(program.state);
      panel(p).each(program.state.width,
                    [=](const auto& place) FUSED_LAMBDA { store(state + place.offset, splat(0.0F)); });
    }
  }
  // Panels are independent, so one's multiply-adds fill the other's latencies.
  const int steps = steps_for(program, block);
  if (program.words != nullptr) program.words->begin(0);
  for (int i = 0; i < steps; i += 1 + program.steps[i].takers) {
    for (int p = 0; p < panels; ++p) run_with_takers(panel(p), program.steps + i);
  }
  if (program.words != nullptr) program.words->end();
  for (int p = 0; p < panels; ++p) {
    const long first = static_cast<long>(p) * kPanelRows;
    const auto write = [&](Columns value, float* target) {
      if (target == nullptr) return;
      panel(p).write(panel(p).at(value), rows_of(p), value.width, target + first * value.width);
    };
    if (block.scores != nullptr) {
      panel(p).write_column(panel(p).at(program.score), rows_of(p), block.scores + first);
    }
    write(program.output, block.output);
    write(program.contributions, block.contributions);
    write(program.state_next, block.state_next);
  }
}

void apply_for_tests(FunctionCall function, const float* in, float* out, long count) {
  apply_function(function, in, out, count / kLanes);
}

constexpr Kernels kKernels = {
    kIsa, {kLanes, kPanelColumns, kBlock, kPartGroup, kTileRows}, run_few, run_block, apply_for_tests};
