#include "backends/fused_cuda/form_in_fragments.h"

#include <algorithm>

#include "backends/fused_cuda/form_in_shared_memory.h"
#include "backends/fused_cuda/functions.h"
#include "backends/fused_cuda/layers.h"
#include "backends/fused_cuda/tensor_cores.h"
#include "backends/fused_cuda/text.h"

namespace datasentinel::fused_cuda {

using fused::Instruction;
using fused::Op;
using fused::Program;

namespace {

constexpr std::size_t kGroupColumns = 8;
constexpr std::size_t kGroupsAtOnce = 4;  ///< Enough sums under way to hide the multiplications' latency.
constexpr std::size_t kMostGroupsAtOnce = 16;  ///< Of a warpgroup: what it waits for takes 64 registers.

std::size_t groups_of(std::size_t width) { return parts_of(width, kGroupColumns); }

/// How many groups of a layer's columns are under way at a time.
std::size_t groups_at_once(std::size_t groups, TensorCores instructions) {
  if (instructions == TensorCores::mma) return kGroupsAtOnce;
  return parts_of(groups, parts_of(groups, kMostGroupsAtOnce));
}

bool is_supported(Op op) {
  switch (op) {
    case Op::copy:
    case Op::gather:
    case Op::smallest:
    case Op::largest: return false;
    default: return true;
  }
}

}  // namespace

std::size_t fragment_registers(const Program& program, Precision precision, TensorCores instructions) {
  const std::size_t steps = program.instructions.size();
  const std::size_t per_register = precision == Precision::tf32 ? 1 : 2;
  std::vector<std::size_t> last_use(program.widths.size(), 0);
  std::vector<bool> is_operand(program.widths.size(), true);
  for (std::size_t i = 0; i < steps; ++i) {
    const Instruction& step = program.instructions[i];
    for (const int value : {step.a, step.b}) {
      if (value < 0) continue;
      last_use[static_cast<std::size_t>(value)] = i;
      if (step.op != Op::dense) is_operand[static_cast<std::size_t>(value)] = false;
    }
  }
  for (const int value : {program.score, program.output, program.contributions}) {
    if (value < 0) continue;
    last_use[static_cast<std::size_t>(value)] = steps;
    is_operand[static_cast<std::size_t>(value)] = false;
  }
  std::size_t most = 0;
  std::vector<bool> is_made(program.widths.size(), false);
  for (std::size_t i = 0; i < steps; ++i) {
    const Instruction& step = program.instructions[i];
    is_made[static_cast<std::size_t>(step.out)] = true;
    const std::size_t groups = groups_of(step.dense.outputs);
    const std::size_t at_once = groups_at_once(groups, instructions);
    const bool is_joint = step.op == Op::dense && instructions == TensorCores::wgmma;
    std::size_t live = step.op == Op::dense ? 4 * at_once : 0;
    if (is_joint) live += 4 * Fragments(precision, step.dense).steps_in_all();
    for (std::size_t value = 0; value < is_made.size(); ++value) {
      if (!is_made[value] || last_use[value] < i) continue;
      // A warpgroup has all operands at hand, and its sums become the layer's values.
      if (is_joint && static_cast<int>(value) == step.a && last_use[value] == i) continue;
      if (is_joint && static_cast<int>(value) == step.out && at_once == groups) continue;
      const std::size_t floats = 4 * groups_of(program.widths[value]);
      live += is_operand[value] ? floats / per_register : floats;
    }
    most = std::max(most, live);
  }
  return most;
}

bool runs_in_fragments(const Program& program, Precision precision) {
  if (precision == Precision::float32) return false;
  const std::vector<bool> low = layers_in(precision, program);
  return std::ranges::all_of(program.instructions, [&](const Instruction& step) {
    return is_supported(step.op) && (step.op != Op::dense || low[static_cast<std::size_t>(step.out)]);
  });
}

std::string InFragments::at(int value, const std::string& /*column*/) const {
  if (value == program_.input) return "x[(16 * m + g + e / 2 * 8) * X_PITCH + c]";
  const std::string name = "v" + std::to_string(value);
  return width(value) == 1 ? name + "[m][e / 2]" : name + "[m][n][e]";
}

std::string InFragments::declarations() const {
  std::string text;
  for (std::size_t value = 0; value < program_.widths.size(); ++value) {
    if (static_cast<int>(value) == program_.input) continue;
    const std::size_t width = program_.widths[value];
    text += "    float v" + text_of(value) + "[" + text_of(tiles_) + "]" +
            (width == 1 ? std::string("[2]") : "[" + text_of(groups_of(width)) + "][4]") + " = {};\n";
  }
  return text;
}

std::string InFragments::constant(const std::vector<double>& values, const std::string& column) {
  std::vector<double> padded = values;
  padded.resize(groups_of(values.size()) * kGroupColumns, 0.0);
  return place_ + "[" + text_of(constants_.add(padded)) + " + " + column + "]";
}

std::string InFragments::constant(const std::vector<int>& values, const std::string& column) {
  return "(int)" + constant(std::vector<double>(values.begin(), values.end()), column);
}

std::string InFragments::each(std::size_t width, const std::string& body) const {
  const bool is_single = width == 1;
  return fill(R"(    #pragma unroll
    for (int n = 0; n < @groups@; ++n) {
      #pragma unroll
      for (int e = 0; e < 4; e += @step@) {
        const int c = @column@;
        #pragma unroll
        for (int m = 0; m < @tiles@; ++m) {
          if (@width@ % 8 == 0 || c < @width@) { @body@ }
        }
      }
    }
)",
              {{"groups", text_of(groups_of(width))},
               {"step", is_single ? "2" : "1"},
               {"column", is_single ? "0" : "8 * n + 2 * t + e % 2"},
               {"tiles", text_of(tiles_)},
               {"width", text_of(width)},
               {"body", body}});
}

Pieces InFragments::reduce(const Reduction& reduction) const {
  const std::string tiles = text_of(tiles_);
  return {
      {.text = fill(R"(    {
      float sums[@tiles@][2][1];
      #pragma unroll
      for (int m = 0; m < @tiles@; ++m) sums[m][0][0] = sums[m][1][0] = @start@;
@take@      #pragma unroll
      for (int m = 0; m < @tiles@; ++m) {
        #pragma unroll
        for (int e = 0; e < 4; e += 2) {
          constexpr int j = 0, n = 0, c = 0;
          (void)n; (void)c;
          float (&t)[1] = sums[m][e / 2];
          #pragma unroll
          for (int lanes = 1; lanes < @sharers@; lanes *= 2) { float x = __shfl_xor_sync(0xffffffffu, t[0], lanes); @merge@ }
          @out@ = @result@;
        }
      }
    }
)",
                    {{"tiles", tiles},
                     // A single column is the same in all four lanes of a row.
                     {"sharers", width(reduction.a) == 1 ? "1" : "4"},
                     {"start", reduction.start},
                     {"take", each(width(reduction.a), "float (&t)[1] = sums[m][e / 2]; " + reduction.take)},
                     {"merge", reduction.merge},
                     {"out", at(reduction.out, "j")},
                     {"result", reduction.result}})}};
}

std::string InFragments::by_warps(const Fragments& fragments) {
  return fill(R"(        const uint4* const w = reinterpret_cast<const uint4*>(@place@ + @weights@) + lane;
        #pragma unroll
        for (int chunk = 0; chunk < @chunks@; ++chunk) {
          #pragma unroll
          for (int n = 0; n < @at_once@; ++n) {
            if (first_group + n >= @column_groups@) continue;
            unsigned b[@steps@][2];
@load@            #pragma unroll
            for (int s = 0; s < @steps@; ++s) {
              if (32 * chunk + @step_inputs@ * s >= @inputs@) continue;
              #pragma unroll
              for (int m = 0; m < @tiles@; ++m) @multiply@(sum[m][n], left[chunk][m][s], b[s]);
            }
          }
        }
)",
              {{"place", place_},
               {"weights", text_of(constants_.add(fragments.packed()))},
               {"chunks", text_of(fragments.chunks())},
               {"at_once", text_of(kGroupsAtOnce)},
               {"column_groups", text_of(fragments.column_groups())},
               {"steps", text_of(fragments.steps())},
               {"step_inputs", text_of(32 / fragments.steps())},
               {"inputs", text_of(fragments.inputs())},
               {"tiles", text_of(tiles_)},
               {"load", fragments.load_text()},
               {"multiply", "multiply_" + std::string(to_string(precision_))}});
}

std::string InFragments::by_warpgroups(const Fragments& fragments, std::size_t at_once) {
  const std::size_t columns = at_once * kGroupColumns;
  const std::size_t steps = fragments.steps_in_all();
  functions_.insert(warpgroup_product(precision_, columns, steps));
  return fill(R"(        multiply_group_@precision@<@columns@, @steps@>(
            sum[0][0], left[0][0][0], described(@place@ + @weights@ + first_group * @group_floats@));
)",
              {{"precision", std::string(to_string(precision_))},
               {"columns", text_of(columns)},
               {"steps", text_of(steps)},
               {"place", place_},
               {"weights", text_of(constants_.add(fragments.packed_for_warpgroup(at_once)))},
               {"group_floats", text_of(steps * kGroupColumns * 8)}});
}

Pieces InFragments::dense(const Instruction& step) {
  const fused::Dense& layer = step.dense;
  const Fragments fragments(precision_, layer);
  const std::size_t at_once = groups_at_once(fragments.column_groups(), instructions_);
  const std::size_t columns = padded(fragments.column_groups(), at_once) * kGroupColumns;
  return {{.text = fill(R"(    {
      unsigned left[@chunks@][@tiles@][@steps@][4];
      #pragma unroll
      for (int chunk = 0; chunk < @chunks@; ++chunk) {
        unsigned (&a)[@tiles@][@steps@][4] = left[chunk];
        #pragma unroll
        for (int m = 0; m < @tiles@; ++m) {
          float part[2][8];
          #pragma unroll
          for (int j = 0; j < 16; ++j) {
            const int n = 4 * chunk + j % 8 / 2, e = j / 8 * 2 + j % 2, c = 8 * n + 2 * t + e % 2;
            part[j / 8][j % 8] = 8 * n < @inputs@ && (@inputs@ % 8 == 0 || c < @inputs@) ? @value@ : 0.0f;
          }
          const float (&x)[2][8] = part;
@pack@        }
      }
      #pragma unroll
      for (int first_group = 0; first_group < @column_groups@; first_group += @at_once@) {
        float sum[@tiles@][@at_once@][4];
        #pragma unroll
        for (int n = 0; n < @at_once@; ++n) {
          const float2 b = *reinterpret_cast<const float2*>(@place@ + @bias@ + 8 * (first_group + n) + 2 * t);
          #pragma unroll
          for (int m = 0; m < @tiles@; ++m) {
            sum[m][n][0] = sum[m][n][2] = b.x;
            sum[m][n][1] = sum[m][n][3] = b.y;
          }
        }
@multiply@        #pragma unroll
        for (int i = 0; i < @at_once@; ++i) {
          const int n = first_group + i;
          if (n >= @column_groups@) continue;
          #pragma unroll
          for (int m = 0; m < @tiles@; ++m) {
            #pragma unroll
            for (int e = 0; e < 4; ++e) @out@ = @y@;
          }
        }
      }
    }
)",
                        {{"tiles", text_of(tiles_)},
                         {"chunks", text_of(fragments.chunks())},
                         {"steps", text_of(fragments.steps())},
                         {"column_groups", text_of(fragments.column_groups())},
                         {"at_once", text_of(at_once)},
                         {"inputs", text_of(layer.inputs)},
                         {"value", at(step.a, "c")},
                         {"bias", text_of(constants_.add(bias_of(layer, columns)))},
                         {"place", place_},
                         {"pack", fragments.pack_text()},
                         {"multiply", instructions_ == TensorCores::mma ? by_warps(fragments)
                                                                        : by_warpgroups(fragments, at_once)},
                         {"out", at(step.out, "c")},
                         {"y", function_of(step.function, "sum[m][i][e]")}})}};
}

}  // namespace datasentinel::fused_cuda
