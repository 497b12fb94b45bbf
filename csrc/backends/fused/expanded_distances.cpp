#include "backends/fused/expanded_distances.h"

#include <cmath>
#include <limits>
#include <utility>

namespace datasentinel::fused {
namespace {

// What rounding a layer's weights, gain and bias to float32 can add up to, as a share of |c|^2. A layer that
// adds more than that to its squares computes something else.
constexpr double kRounding = 8.0 / (1 << 24);

/// The step that writes all of `value`; null where it is not one.
const Instruction* writer(const Program& program, const Links& links, int value) {
  const Links::Positions& writers = links.writers(value);
  return writers.size() == 1 ? &program.instructions[writers.front()] : nullptr;
}

/// Whether `length` is the sum of the squares of the value that `copied` copies.
bool is_squared_length(const Program& program, const Links& links, const Instruction& length, int copied) {
  if (length.op != Op::sum_squares || length.factor != 1 || !length.weights.empty()) return false;
  const bool is_plain = length.center.empty() && length.scale.empty() && length.offset.empty();
  if (length.a == copied) return is_plain;
  const Instruction* map = writer(program, links, copied);
  return map != nullptr && map->op == Op::affine && map->a == length.a && map->center == length.center &&
         map->scale == length.scale && map->offset == length.offset;
}

/// Whether the layer reads a value beside its own squared length.
bool reads_squared_length(const Program& program, const Links& links, const Instruction& layer) {
  const Links::Positions& parts = links.writers(layer.a);
  if (parts.size() != 2) return false;
  const Instruction* value = &program.instructions[parts.front()];
  const Instruction* last = &program.instructions[parts.back()];
  if (value->out_column != 0) std::swap(value, last);
  if (last->out_column + 1 != layer.dense.inputs) return false;
  const Instruction* length = writer(program, links, last->a);
  return length != nullptr && is_squared_length(program, links, *length, value->a);
}

}  // namespace

std::optional<ExpandedDistances> expanded_distances(const Program& program, const Links& links,
                                                    std::size_t position) {
  const Instruction& step = program.instructions[position];
  const Dense& layer = step.dense;
  if (step.op != Op::dense || step.arithmetic != Arithmetic::float32 ||
      step.function.function != Function::identity || layer.windows != 1 ||
      layer.bias.size() != layer.outputs || !reads_squared_length(program, links, step)) {
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
