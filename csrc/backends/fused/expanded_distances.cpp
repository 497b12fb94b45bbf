#include "backends/fused/expanded_distances.h"

#include <cmath>
#include <limits>

namespace datasentinel::fused {
namespace {

// What rounding a layer's weights, gain and bias to float32 can add up to, as a share of |c|^2. A layer that
// adds more than that to its squares computes something else.
constexpr double kRounding = 8.0 / (1 << 24);

/// The only step that writes `value` from `column` on; null where there are others.
const Instruction* writer(const Program& program, int value, std::size_t column) {
  const Instruction* found = nullptr;
  for (const Instruction& step : program.instructions) {
    if (step.out != value || step.out_column != column) continue;
    if (found != nullptr) return nullptr;
    found = &step;
  }
  return found;
}

/// Whether `length` is the sum of the squares of the value that `copied` copies.
bool is_squared_length(const Program& program, const Instruction& length, int copied) {
  if (length.op != Op::sum_squares || length.factor != 1 || !length.weights.empty()) return false;
  const bool is_plain = length.center.empty() && length.scale.empty() && length.offset.empty();
  if (length.a == copied) return is_plain;
  const Instruction* map = writer(program, copied, 0);
  return map != nullptr && map->op == Op::affine && map->a == length.a && map->center == length.center &&
         map->scale == length.scale && map->offset == length.offset;
}

/// Whether the layer reads a value beside its own squared length.
bool reads_squared_length(const Program& program, const Instruction& layer) {
  if (layer.dense.inputs < 2) return false;
  const std::size_t width = layer.dense.inputs - 1;
  const Instruction* value = writer(program, layer.a, 0);
  const Instruction* last = writer(program, layer.a, width);
  if (value == nullptr || last == nullptr || value->op != Op::copy || last->op != Op::copy) return false;
  if (program.widths[static_cast<std::size_t>(value->a)] != width) return false;
  const Instruction* length = writer(program, last->a, 0);
  return length != nullptr && is_squared_length(program, *length, value->a);
}

}  // namespace

std::optional<ExpandedDistances> expanded_distances(const Program& program, std::size_t position) {
  const Instruction& step = program.instructions[position];
  const Dense& layer = step.dense;
  if (step.op != Op::dense || step.arithmetic != Arithmetic::float32 ||
      step.function.function != Function::identity || layer.windows != 1 ||
      layer.bias.size() != layer.outputs || !reads_squared_length(program, step)) {
    return std::nullopt;
  }
  ExpandedDistances distances;
  distances.width = layer.inputs - 1;
  for (std::size_t p = 0; p < layer.outputs; ++p) {
    const double gain = layer.weights[distances.width * layer.outputs + p];
    if (!(gain > 0)) return std::nullopt;
    double square = 0;
    for (std::size_t k = 0; k < distances.width; ++k) {
      const double coordinate = -layer.weights[k * layer.outputs + p] / (2 * gain);
      distances.centres.push_back(coordinate);
      square += coordinate * coordinate;
    }
    // What float32 cannot hold is left as it is.
    if (!(square <= std::numeric_limits<float>::max())) return std::nullopt;
    if (!(std::abs(layer.bias[p] / gain - square) <= kRounding * square)) return std::nullopt;
    distances.gains.push_back(gain);
  }
  return distances;
}

}  // namespace datasentinel::fused
