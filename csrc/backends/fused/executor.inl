// Runs a program over one block of rows. Included inside the anonymous namespace of each kernels_<isa>.cpp.

template <bool kHasConstants>
FUSED_INLINE Vector affine_of(const Step& step, const auto& place, Vector x) {
  if constexpr (kHasConstants) {
    if (step.center != nullptr) x -= place.constant(step.center);
    if (step.scale != nullptr && step.offset != nullptr) {
      return fma(x, place.constant(step.scale), place.constant(step.offset));
    }
    if (step.scale != nullptr) x *= place.constant(step.scale);
    if (step.offset != nullptr) x += place.constant(step.offset);
  }
  return x;
}

template <bool kHasConstants>
FUSED_INLINE Vector difference_of(const Step& step, const auto& place, Vector a, Vector b) {
  if constexpr (kHasConstants) {
    if (step.scale_b != nullptr) b *= place.constant(step.scale_b);
  }
  return affine_of<kHasConstants>(step, place, a) - b;
}

template <typename Layout, typename Operation>
FUSED_INLINE void binary(const Layout& layout, const Step& step, Operation operation) {
  const float* a = layout.at(step.a);
  const float* b = layout.at(step.b);
  float* out = layout.at(step.out);
  const bool narrow_a = step.a.width < step.out.width;
  const bool narrow_b = step.b.width < step.out.width;
  layout.each(step.out.width, [=](const auto& place) {
    const Vector left = narrow_a ? place.narrow(a) : load(a + place.offset);
    const Vector right = narrow_b ? place.narrow(b) : load(b + place.offset);
    store(out + place.offset, operation(left, right));
  });
}

template <bool kHasConstants, typename Layout>
FUSED_INLINE void sum_difference(const Layout& layout, const Step& step) {
  const float* a = layout.at(step.a);
  const float* b = layout.at(step.b);
  const Vector factor = splat(step.factor);
  layout.reduce(
      step.a.width, splat(0.0F),
      [&](const auto& place) {
        const Vector d =
            difference_of<kHasConstants>(step, place, load(a + place.offset), load(b + place.offset));
        if constexpr (kHasConstants) {
          if (step.weights != nullptr) return d * d * place.constant(step.weights);
        }
        return d * d;
      },
      [](Vector total, Vector value) { return total + value; }, [=](Vector total) { return total * factor; },
      layout.at(step.out));
}

template <typename Layout>
FUSED_INLINE void sum_squares(const Layout& layout, const Step& step) {
  const float* a = layout.at(step.a);
  const Vector factor = splat(step.factor);
  layout.reduce(
      step.a.width, splat(0.0F),
      [&](const auto& place) {
        const Vector d = affine_of<true>(step, place, load(a + place.offset));
        return step.weights != nullptr ? d * d * place.constant(step.weights) : d * d;
      },
      [](Vector total, Vector value) { return total + value; }, [=](Vector total) { return total * factor; },
      layout.at(step.out));
}

template <typename Layout>
void run_step(const Layout& layout, const Step& step) {
  const float* a = layout.at(step.a);
  float* out = layout.at(step.out);
  const int width = step.out.width;
  const auto keep = [](Vector total) { return total; };
  const auto larger = [](Vector x, Vector y) { return max(x, y); };
  const auto smaller = [](Vector x, Vector y) { return min(x, y); };
  const Vector infinity = splat(__builtin_inff());
  switch (step.op) {
    case Op::dense: layout.dense(step); break;
    case Op::apply: layout.apply(step.function, a, width, out); break;
    case Op::affine:
      layout.each(width, [&](const auto& place) {
        store(out + place.offset, affine_of<true>(step, place, load(a + place.offset)));
      });
      break;
    case Op::difference: {
      const float* b = layout.at(step.b);
      layout.each(width, [&](const auto& place) {
        store(out + place.offset,
              difference_of<true>(step, place, load(a + place.offset), load(b + place.offset)));
      });
      break;
    }
    case Op::add: binary(layout, step, [](Vector x, Vector y) { return x + y; }); break;
    case Op::subtract: binary(layout, step, [](Vector x, Vector y) { return x - y; }); break;
    case Op::multiply: binary(layout, step, [](Vector x, Vector y) { return x * y; }); break;
    case Op::divide: binary(layout, step, [](Vector x, Vector y) { return x / y; }); break;
    case Op::minimum: binary(layout, step, smaller); break;
    case Op::maximum: binary(layout, step, larger); break;
    case Op::copy: layout.copy(a, width, out); break;
    case Op::gather: layout.gather(a, step.indices, width, out); break;
    case Op::sum:
      layout.reduce(
          step.a.width, splat(0.0F),
          [&](const auto& place) {
            const Vector value = load(a + place.offset);
            return step.weights != nullptr ? value * place.constant(step.weights) : value;
          },
          [](Vector x, Vector y) { return x + y; }, [&](Vector total) { return total * step.factor; }, out);
      break;
    case Op::sum_squares: sum_squares(layout, step); break;
    case Op::sum_difference:
      if (step.center == nullptr && step.scale == nullptr && step.offset == nullptr &&
          step.scale_b == nullptr && step.weights == nullptr) {
        sum_difference<false>(layout, step);
      } else {
        sum_difference<true>(layout, step);
      }
      break;
    case Op::min_columns:
      layout.reduce(
          step.a.width, infinity, [=](const auto& place) { return load(a + place.offset); }, smaller, keep,
          out);
      break;
    case Op::max_columns:
      layout.reduce(
          step.a.width, -infinity, [=](const auto& place) { return load(a + place.offset); }, larger, keep,
          out);
      break;
    case Op::smallest: layout.extremes(a, step.a.width, width, infinity, smaller, larger, out); break;
    case Op::largest: layout.extremes(a, step.a.width, width, -infinity, larger, smaller, out); break;
  }
}

/// Rows of one panel: a register tile is two vectors high.
constexpr int kPanelRows = 2 * kLanes;
using Panel = RowsInLanes<2>;

void run_few(const ProgramView& program, const float* input, int rows, float* frame, float* scores,
             float* output) {
  const ColumnsInLanes layout{frame, program.frame_columns, rows};
  layout.read(input, rows, program.input.width, layout.at(program.input));
  const int steps = output == nullptr ? program.score_steps : program.all_steps;
  for (int i = 0; i < steps; ++i) run_step(layout, program.steps[i]);
  if (scores != nullptr) layout.write(layout.at(program.score), rows, 1, scores);
  if (output != nullptr) layout.write(layout.at(program.output), rows, program.output.width, output);
}

void run_block(const ProgramView& program, const float* input, int rows, float* frame, float* scores,
               float* output) {
  const int panels = (rows + kPanelRows - 1) / kPanelRows;
  const auto panel = [&](int index) {
    return Panel{frame + static_cast<long>(index) * kPanelRows * program.frame_columns};
  };
  const auto rows_of = [&](int index) { return index + 1 < panels ? kPanelRows : rows - index * kPanelRows; };
  for (int p = 0; p < panels; ++p) {
    panel(p).read(input + static_cast<long>(p) * kPanelRows * program.input.width, rows_of(p),
                  program.input.width, panel(p).at(program.input));
  }
  // Panels are independent, so one's multiply-adds fill the other's latencies.
  const int steps = output == nullptr ? program.score_steps : program.all_steps;
  for (int i = 0; i < steps; ++i) {
    for (int p = 0; p < panels; ++p) run_step(panel(p), program.steps[i]);
  }
  for (int p = 0; p < panels; ++p) {
    const long first = static_cast<long>(p) * kPanelRows;
    if (scores != nullptr) panel(p).write(panel(p).at(program.score), rows_of(p), 1, scores + first);
    if (output != nullptr) {
      panel(p).write(panel(p).at(program.output), rows_of(p), program.output.width,
                     output + first * program.output.width);
    }
  }
}

void apply_for_tests(FunctionCall function, const float* in, float* out, long count) {
  apply_function(function, in, out, count / kLanes);
}

constexpr Kernels kKernels = {
    kIsa, {kLanes, kPanelColumns, kBlock, kTileRows, kTileVectors}, run_few, run_block, apply_for_tests};
