#include "backends/fused/packed_program.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <tuple>
#include <utility>

#include "backends/fused/expanded_distances.h"
#include "backends/fused/frame_layout.h"
#include "backends/fused/takers.h"
#include "backends/fused/word_layers.h"
#include "core/error.h"

namespace datasentinel::fused {
namespace {

std::size_t round_up(std::size_t value, std::size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

/// Sizes of `count` columns cut into the fewest panels of at most `widest`, as even as possible. The kernels
/// cut in the same way.
std::vector<std::size_t> panels_of(std::size_t count, std::size_t widest) {
  const std::size_t panels = (count + widest - 1) / widest;
  std::vector<std::size_t> sizes(panels, count / panels);
  for (std::size_t i = 0; i < count % panels; ++i) ++sizes[i];
  return sizes;
}

/// Two sums in flight for each output of a layer so narrow that one row's would wait for one another. It is
/// a matter of the layer and not of the rows, so that a row's score does not depend on its batch.
int chains_of(const Dense& layer, const Geometry& geometry) {
  constexpr std::size_t kFewInputs = 9;
  constexpr int kFewVectors = 5;
  const bool narrow = layer.outputs <= static_cast<std::size_t>(kFewVectors * geometry.lanes);
  return narrow && layer.inputs >= kFewInputs ? 2 : 1;
}

/// How many steps behind a layer pick among its results while these are in the first-level cache.
int takers_of(const Program& program, const Links& links, std::size_t position, const Geometry& geometry) {
  const Instruction& layer = program.instructions[position];
  if (layer.function.function != Function::identity) return 0;
  const bool is_sum = layer.op == Op::dense && layer.arithmetic == Arithmetic::float32 &&
                      layer.dense.inputs <= static_cast<std::size_t>(geometry.k_block) &&
                      chains_of(layer.dense, geometry) == 1 && layer.dense.windows == 1;
  const bool is_plain = layer.op == Op::distances && layer.factor == 1;
  if (!is_sum && !is_plain) return 0;
  const std::size_t count = takers(program, links, position);
  for (std::size_t i = position + 1; i <= position + count; ++i) {
    const Op op = program.instructions[i].op;
    if (op != Op::smallest && op != Op::largest) return 0;
  }
  return static_cast<int>(count);
}

/// Whether the first taker keeps the smallest of the layer's results as they are.
bool keeps_smallest(const Program& program, std::size_t layer, int takers) {
  if (takers == 0) return false;
  const Instruction* steps = program.instructions.data() + layer;
  std::size_t kept = 0;
  for (int i = 1; i <= takers; ++i) kept += program.widths[static_cast<std::size_t>(steps[i].out)];
  return steps[1].op == Op::smallest && steps[1].center.empty() && steps[1].scale.empty() &&
         steps[1].offset.empty() && kept <= kMostKept;
}

/// Collects constants; they get their addresses when all are known.
class Arena {
 public:
  /// Index + 1 of the first float; 0 stands for null.
  std::size_t add(const std::vector<double>& values) {
    if (values.empty()) return 0;
    const std::size_t start = begin(round_up(values.size(), kWidestVector));
    std::transform(values.begin(), values.end(), floats_.begin() + static_cast<std::ptrdiff_t>(start),
                   to_float32);
    return start + 1;
  }

  std::size_t add_bias(const Dense& layer) {
    return add(layer.bias.empty() ? std::vector<double>(layer.outputs, 0.0) : layer.bias);
  }

  /// [k block][column panel][k][column]
  std::size_t add_lane_weights(const Dense& layer, const Geometry& geometry) {
    const std::size_t start = begin(layer.inputs * layer.outputs);
    const auto panels = panels_of(
        layer.outputs, static_cast<std::size_t>(geometry.panel_columns / chains_of(layer, geometry)));
    const auto k_block = static_cast<std::size_t>(geometry.k_block);
    float* target = floats_.data() + start;
    for (std::size_t first = 0; first < layer.inputs; first += k_block) {
      const std::size_t end = std::min(first + k_block, layer.inputs);
      std::size_t column = 0;
      for (const std::size_t panel : panels) {
        for (std::size_t k = first; k < end; ++k) {
          for (std::size_t c = 0; c < panel; ++c) {
            *target++ = to_float32(layer.weights[k * layer.outputs + column + c]);
          }
        }
        column += panel;
      }
    }
    return start + 1;
  }

  /// [group][k][column], columns padded to whole groups with zeros.
  std::size_t add_column_weights(const Dense& layer, int group_columns) {
    const auto group = static_cast<std::size_t>(group_columns);
    const std::size_t columns = round_up(layer.outputs, group);
    const std::size_t start = begin(layer.inputs * columns);
    float* target = floats_.data() + start;
    for (std::size_t column = 0; column < columns; column += group) {
      for (std::size_t k = 0; k < layer.inputs; ++k) {
        for (std::size_t c = column; c < column + group; ++c) {
          *target++ = c < layer.outputs ? to_float32(layer.weights[k * layer.outputs + c]) : 0.0F;
        }
      }
    }
    return start + 1;
  }

  /// [panel of columns][k][column], padded with zeros.
  std::size_t add_centres(const ExpandedDistances& distances) {
    constexpr std::size_t kPanel = kCentreColumns;
    const std::size_t width = distances.width;
    const std::size_t start = begin(round_up(distances.gains.size(), kPanel) * width);
    float* target = floats_.data() + start;
    for (std::size_t i = 0; i < distances.centres.size(); ++i) {
      const std::size_t column = i / width;
      target[(column / kPanel * width + i % width) * kPanel + column % kPanel] =
          to_float32(distances.centres[i]);
    }
    return start + 1;
  }

  /// [group of column tiles][word tile][column tile][column][word], or the last two exchanged.
  std::size_t add_word_tiles(const WordMatrix& matrix, std::size_t group_tiles, bool words_outside) {
    constexpr std::size_t kTile = kWordTile;
    const std::size_t start = begin(matrix.weights.size());
    float* target = floats_.data() + start;
    const auto add_tile = [&](std::size_t word, std::size_t column) {
      for (std::size_t i = 0; i < kTile * kTile; ++i) {
        const std::size_t w = word + (words_outside ? i / kTile : i % kTile);
        const std::size_t c = column + (words_outside ? i % kTile : i / kTile);
        *target++ = std::bit_cast<float>(matrix.weights[w * matrix.columns + c]);
      }
    };
    for (std::size_t group = 0; group < matrix.columns; group += group_tiles * kTile) {
      const std::size_t end = std::min(group + group_tiles * kTile, matrix.columns);
      for (std::size_t word = 0; word < matrix.words; word += kTile) {
        for (std::size_t column = group; column < end; column += kTile) add_tile(word, column);
      }
    }
    return start + 1;
  }

  /// What the zero points of the inputs, which are packed without a sign, add to a layer's sums in whole
  /// numbers.
  std::size_t add_first_sums(const std::vector<std::int32_t>& sums, int zero_point) {
    const std::size_t start = begin(sums.size());
    std::transform(sums.begin(), sums.end(), floats_.begin() + static_cast<std::ptrdiff_t>(start),
                   [=](std::int32_t sum) { return std::bit_cast<float>(-(zero_point + 128) * sum); });
    return start + 1;
  }

  [[nodiscard]] const std::vector<float>& floats() const { return floats_; }

 private:
  std::size_t begin(std::size_t size) {
    const std::size_t start = round_up(floats_.size(), kCacheLineBytes / sizeof(float));
    floats_.resize(start + size, 0.0F);
    return start;
  }

  std::vector<float> floats_;
};

/// The places in the arena of a layer's weights and of what is made of them. Steps with the same weights
/// share these, and the bias where that is the same, too.
struct WeightPlaces {
  std::size_t lane_weights = 0, column_weights = 0, centres = 0, gains = 0;
  double largest_gain = 0;
  std::vector<std::int32_t> sums;  ///< As those of WordMatrix.
  const std::vector<double>* bias_numbers = nullptr;
  std::size_t bias = 0;
};

/// The places of one step's constants, in the order of Step's pointers.
struct Places {
  std::size_t lane_weights = 0, column_weights = 0, bias = 0;
  std::size_t center = 0, scale = 0, offset = 0, scale_b = 0, weights = 0;
  std::size_t first_sums = 0;
  std::size_t centres = 0;
  double largest_gain = 0;
};

/// Puts the constants of steps into the arena, and weights once for each form that steps read them in.
class Placer {
 public:
  Placer(const Program& program, const Links& links, const Geometry& geometry)
      : program_(program), links_(links), geometry_(geometry) {}

  /// Of the step at `position`, which has so many takers behind it.
  Places place(std::size_t position, int takers) {
    const Instruction& step = program_.instructions[position];
    Places places;
    places.center = arena_.add(step.center);
    places.scale = arena_.add(step.scale);
    places.offset = arena_.add(step.offset);
    places.scale_b = arena_.add(step.scale_b);
    places.weights = arena_.add(step.weights);
    if (step.op != Op::dense && step.op != Op::distances) return places;
    const auto distances = expanded_distances(program_, links_, position);
    const bool in_parts = takers > 0 || step.op == Op::distances;
    const auto [found, is_new] =
        shared_.try_emplace({step.dense.weights.shared(), step.arithmetic, in_parts, distances.has_value()});
    WeightPlaces& weights = found->second;
    if (is_new) weights = place_weights(step, in_parts, distances);
    places.lane_weights = weights.lane_weights;
    places.column_weights = weights.column_weights;
    places.bias = bias_of(step, weights);
    if (step.arithmetic == Arithmetic::int8) {
      places.scale = arena_.add(step.dense.quanta);
      places.first_sums = arena_.add_first_sums(weights.sums, step.zero_point);
    } else if (distances) {
      places.centres = weights.centres;
      places.scale = weights.gains;
      if (keeps_smallest(program_, position, takers)) places.largest_gain = weights.largest_gain;
    }
    return places;
  }

  [[nodiscard]] const std::vector<float>& floats() const { return arena_.floats(); }

 private:
  using Form = std::tuple<const void*, Arithmetic, bool, bool>;

  WeightPlaces place_weights(const Instruction& step, bool in_parts,
                             const std::optional<ExpandedDistances>& distances) {
    const Dense& layer = step.dense;
    WeightPlaces places;
    if (step.arithmetic != Arithmetic::float32) {
      WordMatrix matrix = words_of(layer, step.arithmetic);
      places.lane_weights = arena_.add_word_tiles(matrix, kPanelTiles, false);
      places.column_weights = arena_.add_word_tiles(matrix, kFewTiles, true);
      places.sums = std::move(matrix.sums);
      return places;
    }
    places.lane_weights = in_parts ? arena_.add_column_weights(layer, geometry_.part_group)
                                   : arena_.add_lane_weights(layer, geometry_);
    places.column_weights = arena_.add_column_weights(layer, 2 * geometry_.lanes);
    if (distances) {
      places.centres = arena_.add_centres(*distances);
      places.gains = arena_.add(distances->gains);
      places.largest_gain = *std::ranges::max_element(distances->gains);
    }
    return places;
  }

  std::size_t bias_of(const Instruction& step, WeightPlaces& weights) {
    if (step.op != Op::dense) return 0;
    if (weights.bias_numbers != nullptr && *weights.bias_numbers == step.dense.bias) return weights.bias;
    weights.bias_numbers = &step.dense.bias;
    return weights.bias = arena_.add_bias(step.dense);
  }

  const Program& program_;
  const Links& links_;
  const Geometry& geometry_;
  Arena arena_;
  std::map<Form, WeightPlaces> shared_;
};

}  // namespace

PackedProgram::PackedProgram(const Program& program, const Geometry& geometry, const WordKernels* words) {
  const FrameLayout layout = lay_out(program, false);
  const auto columns_of = [&](int value, std::size_t first = 0) {
    if (value < 0) return Columns{};
    const auto index = static_cast<std::size_t>(value);
    return Columns{layout.offsets[index] + static_cast<int>(first), static_cast<int>(program.widths[index])};
  };

  const Links links(program);
  Placer placer(program, links, geometry);
  std::vector<Places> places;
  std::vector<int> step_takers;
  for (std::size_t i = 0; i < program.instructions.size(); ++i) {
    step_takers.push_back(takers_of(program, links, i, geometry));
    indices_.push_back(program.instructions[i].indices);
    places.push_back(placer.place(i, step_takers.back()));
  }
  constants_ = AlignedFloats(placer.floats().size());
  constant_bytes_ = constants_.size() * sizeof(float);
  std::ranges::copy(placer.floats(), constants_.data());
  const auto address = [this](std::size_t place) {
    return place == 0 ? nullptr : constants_.data() + place - 1;
  };

  std::size_t padded_multiply_adds = 0;
  for (std::size_t i = 0; i < program.instructions.size(); ++i) {
    const Instruction& instruction = program.instructions[i];
    if (is_range(instruction)) continue;  // It lies where it is picked from.
    Step step;
    step.op = instruction.op;
    step.a = columns_of(instruction.a);
    step.b = columns_of(instruction.b);
    step.out = columns_of(instruction.out, instruction.out_column);
    if (instruction.op == Op::copy) step.out.width = step.a.width;
    step.function = instruction.function;
    if (instruction.op == Op::pack) step.function.b = static_cast<float>(instruction.zero_point);
    if (instruction.dense.windows > 1) {
      step.a.width = static_cast<int>(instruction.dense.inputs);
      step.out.width = static_cast<int>(instruction.dense.outputs);
      step.windows = static_cast<int>(instruction.dense.windows);
      step.step = static_cast<int>(instruction.dense.step);
    }
    step.takers = step_takers[i];
    step.chains = chains_of(instruction.dense, geometry);
    step.lane_weights = address(places[i].lane_weights);
    step.column_weights = address(places[i].column_weights);
    step.bias = address(places[i].bias);
    step.centres = address(places[i].centres);
    step.largest_gain = to_float32(places[i].largest_gain);
    step.first_sums = reinterpret_cast<const int*>(address(places[i].first_sums));
    step.words = instruction.arithmetic == Arithmetic::float32 ? nullptr : words;
    step.center = address(places[i].center);
    step.scale = address(places[i].scale);
    step.offset = address(places[i].offset);
    step.scale_b = address(places[i].scale_b);
    step.weights = address(places[i].weights);
    step.indices = indices_[i].data();
    if (step.op == Op::trees) {
      trees_.push_back(std::make_unique<PackedTrees>(instruction.forest, geometry));
      step.trees = &trees_.back()->view();
      tree_levels_ += trees_.back()->levels();
      constant_bytes_ += trees_.back()->bytes();
    }
    step.factor = to_float32(instruction.factor);
    steps_.push_back(step);
    if (step.op == Op::dense) ++layers_;
    if (step.op == Op::dense && step.words != nullptr) ++word_layers_;
    const Dense& layer = instruction.dense;
    multiply_adds_ += layer.windows * layer.inputs * layer.outputs;
    padded_multiply_adds +=
        layer.windows * layer.inputs * round_up(layer.outputs, static_cast<std::size_t>(geometry.lanes));
  }

  const auto steps_of = [&](std::size_t instructions) {
    const auto begin = program.instructions.begin();
    return static_cast<int>(
        std::count_if(begin, begin + static_cast<std::ptrdiff_t>(instructions), std::not_fn(is_range)));
  };
  view_.steps = steps_.data();
  view_.score_steps = steps_of(program.score_instructions);
  view_.output_steps = steps_of(program.output_instructions);
  view_.all_steps = static_cast<int>(steps_.size());
  view_.frame_columns = layout.columns;
  view_.words = word_layers_ > 0 ? words : nullptr;
  view_.input = columns_of(program.input);
  view_.score = columns_of(program.score);
  view_.output = columns_of(program.output);
  view_.state = columns_of(program.state);
  view_.state_next = columns_of(program.state_next);
  view_.contributions = columns_of(program.contributions);

  // Enough panels to fill each other's latencies, if they stay in the first-level cache together. The
  // columns that only contributions need are left out: they are rarely asked for.
  constexpr std::size_t kMaxPanels = 8;
  constexpr std::size_t kFrameBytes = 16 << 10;
  const auto panel_rows = static_cast<std::size_t>(2 * geometry.lanes);
  const std::size_t panel_bytes =
      static_cast<std::size_t>(layout.output_columns) * panel_rows * sizeof(float);
  block_rows_ = panel_rows * std::clamp<std::size_t>(kFrameBytes / panel_bytes, 1, kMaxPanels);
  // A panel costs the same for few rows as for all. Layers narrower than a vector waste lanes in the other
  // way.
  const bool narrow = padded_multiply_adds > multiply_adds_ * 3 / 2;
  few_rows_ = static_cast<std::size_t>(geometry.tile_rows) * (narrow ? 1 : 3);
  // A tree takes as many rows as a panel has in the time of about half as many one by one.
  if (kMultiplyAddsPerLevel * tree_levels_ > multiply_adds_) {
    few_rows_ = static_cast<std::size_t>(geometry.lanes);
  }
  if (view_.words != nullptr) {
    few_rows_ = std::min(few_rows_, static_cast<std::size_t>(view_.words->most_few_rows));
  }
}

}  // namespace datasentinel::fused
