#include "backends/fused/builder.h"

#include <algorithm>
#include <string>
#include <utility>

#include "backends/fused/column_constants.h"
#include "core/error.h"

namespace datasentinel::fused {
namespace {

using Form = Symbol::Form;

/// Nothing but scaled, upwards.
bool is_scaled(const Symbol& symbol) {
  return symbol.form == Form::affine && symbol.center.empty() && symbol.offset.empty() &&
         !symbol.scale.empty() &&
         std::all_of(symbol.scale.begin(), symbol.scale.end(), [](double scale) { return scale > 0; });
}

/// Of a symbol or an instruction.
template <typename Formula>
std::size_t count_of_constants(const Formula& formula) {
  return formula.center.size() + formula.scale.size() + formula.offset.size() + formula.scale_b.size() +
         formula.weights.size();
}

}  // namespace

void refuse_graph(const std::string& problem) {
  throw Error(ErrorCode::unsupported_model, "the fused backend cannot run this graph: " + problem);
}

int ProgramBuilder::new_value(std::size_t width) {
  // One row of all values together; a small file can ask for any number of columns by joining them.
  constexpr std::size_t kMaxColumns = std::size_t{1} << 24;
  columns_ += width;
  if (columns_ > kMaxColumns) {
    refuse_graph("its values have more than " + std::to_string(kMaxColumns) + " columns together");
  }
  program_.widths.push_back(width);
  producer_.push_back(-1);
  shared_.push_back(0);
  return static_cast<int>(program_.widths.size()) - 1;
}

void ProgramBuilder::push(Instruction instruction) {
  constexpr std::size_t kMaxInstructions = std::size_t{1} << 18;
  if (program_.instructions.size() == kMaxInstructions) {
    refuse_graph("it takes more than " + std::to_string(kMaxInstructions) + " steps");
  }
  program_.instructions.push_back(std::move(instruction));
}

bool ProgramBuilder::has_room_for(std::size_t constants) const {
  constexpr std::size_t kAlways = std::size_t{1} << 26;
  constexpr std::size_t kMostPerNumber = 16;
  return constants_ + constants <= kAlways + kMostPerNumber * numbers_read_;
}

void ProgramBuilder::count_constants(std::size_t numbers) {
  if (!has_room_for(numbers)) {
    refuse_graph("the constants of its columns would take far more memory than those in the file");
  }
  constants_ += numbers;
}

void ProgramBuilder::keep(const Symbol& symbol) { count_constants(count_of_constants(symbol)); }

bool ProgramBuilder::make_own(SharedNumbers& weights) {
  if (weights.are_shared()) {
    if (!has_room_for(weights.size())) return false;
    count_constants(weights.size());
    static_cast<void>(weights.own());
  }
  return true;
}

Symbol ProgramBuilder::emit(Instruction instruction, std::size_t width) {
  count_constants(count_of_constants(instruction));
  const int value = new_value(width);
  instruction.out = value;
  producer_[static_cast<std::size_t>(value)] = static_cast<int>(program_.instructions.size());
  push(std::move(instruction));
  Symbol symbol;
  symbol.a = value;
  symbol.width = width;
  symbol.shape = Shape::matrix(width);
  return symbol;
}

void ProgramBuilder::share(const Symbol& symbol) {
  shared_[static_cast<std::size_t>(symbol.a)] = 1;
  if (symbol.b >= 0) shared_[static_cast<std::size_t>(symbol.b)] = 1;
}

int ProgramBuilder::read(Symbol& symbol) {
  const int value = materialize(symbol);
  share(symbol);
  return value;
}

Dense* ProgramBuilder::open_layer(int value) {
  const int producer = producer_[static_cast<std::size_t>(value)];
  if (producer < 0 || shared_[static_cast<std::size_t>(value)] != 0) return nullptr;
  Instruction& instruction = program_.instructions[static_cast<std::size_t>(producer)];
  const bool open = instruction.op == Op::dense && instruction.function.function == Function::identity;
  return open ? &instruction.dense : nullptr;
}

Symbol ProgramBuilder::input(std::size_t width) {
  program_.input = new_value(width);
  Symbol symbol;
  symbol.a = program_.input;
  symbol.width = width;
  symbol.shape = Shape::matrix(width);
  return symbol;
}

Symbol ProgramBuilder::state(std::size_t width) {
  program_.state = new_value(width);
  Symbol symbol;
  symbol.a = program_.state;
  symbol.width = width;
  symbol.shape = Shape::matrix(width);
  return symbol;
}

Symbol ProgramBuilder::add(Symbol symbol, const Constants& constant) {
  if (symbol.form == Form::squares) materialize(symbol);
  Dense* layer = symbol.is_plain() ? open_layer(symbol.a) : nullptr;
  if (layer != nullptr && layer->bias.empty() && repeats(constant, layer->outputs)) {
    layer->bias.assign(constant.begin(), constant.begin() + static_cast<std::ptrdiff_t>(layer->outputs));
  } else if (symbol.is_plain()) {
    // x + c as x - center: exact in float32 where x and c are close.
    symbol.center.resize(constant.size());
    std::transform(constant.begin(), constant.end(), symbol.center.begin(), [](double c) { return -c; });
  } else {
    combine(symbol.offset, 0.0, constant, [](double x, double y) { return x + y; });
  }
  return symbol;
}

Symbol ProgramBuilder::multiply(Symbol symbol, const Constants& constant) {
  if (symbol.form == Form::squares) {
    multiply_by(symbol.weights, constant);
    return symbol;
  }
  multiply_by(symbol.scale, constant);
  if (!symbol.offset.empty()) multiply_by(symbol.offset, constant);
  if (symbol.form == Form::difference) multiply_by(symbol.scale_b, constant);
  return symbol;
}

Symbol ProgramBuilder::difference(Symbol& left, Symbol& right) {
  make_affine(left);
  make_affine(right);
  share(left);
  share(right);
  const std::size_t width = left.width;
  // The graph's input goes first: its center is subtracted before anything else happens.
  const bool swap = right.a == program_.input && left.a != program_.input;
  const double sign = swap ? -1.0 : 1.0;
  const Symbol& first = swap ? right : left;
  const Symbol& second = swap ? left : right;

  Symbol result = first;
  result.form = Form::difference;
  result.b = second.a;
  result.scale_b = second.scale;
  // first - ((b - center) scale + offset) = first - b scale + shift
  Constants shift(width);
  bool shifted = false;
  for (std::size_t i = 0; i < width; ++i) {
    shift[i] = at(second.center, i, 0) * at(second.scale, i, 1) - at(second.offset, i, 0);
    shifted = shifted || shift[i] != 0;
  }
  if (shifted && first.is_plain()) {
    result.center.resize(width);
    std::transform(shift.begin(), shift.end(), result.center.begin(), [](double s) { return -s; });
  } else if (shifted) {
    combine(result.offset, 0.0, shift, [](double x, double y) { return x + y; });
  }
  return sign > 0 ? result : multiply(result, Constants(width, sign));
}

Symbol ProgramBuilder::add(Symbol& left, Symbol& right) {
  make_affine(left);
  make_affine(right);
  // A shift stays with its own operand: near its center, x - center is exact in float32, and the sum is not.
  const auto is_shifted = [](const Symbol& symbol) {
    return !symbol.center.empty() || !symbol.offset.empty();
  };
  if ((left.is_plain() && right.is_plain()) || (is_shifted(left) && is_shifted(right))) {
    return binary(Op::add, left, right);
  }
  share(left);
  share(right);
  const Symbol& first = is_shifted(right) ? right : left;
  const Symbol& second = is_shifted(right) ? left : right;
  Symbol result = first;
  result.form = Form::difference;
  result.b = second.a;
  result.scale_b = second.scale;
  multiply_by(result.scale_b, Constants(second.width, -1.0));
  return result;
}

Symbol ProgramBuilder::square(Symbol& symbol) {
  if (symbol.form == Form::squares) materialize(symbol);
  share(symbol);
  Symbol result = symbol;
  result.form = Form::squares;
  return result;
}

void ProgramBuilder::make_affine(Symbol& symbol) {
  if (symbol.form == Form::difference) materialize(symbol);
  if (symbol.form != Form::squares) return;
  Symbol base = symbol;
  base.form = symbol.b >= 0 ? Form::difference : Form::affine;
  base.weights.clear();
  Symbol squared = apply({.function = Function::square}, base, true);
  squared.shape = symbol.shape;
  symbol = symbol.weights.empty() ? squared : multiply(squared, symbol.weights);
}

int ProgramBuilder::materialize(Symbol& symbol) {
  if (symbol.form == Form::squares) make_affine(symbol);
  if (symbol.is_plain()) return symbol.a;
  const Shape shape = symbol.shape;
  const std::size_t width = symbol.width;
  Dense* layer = symbol.form == Form::affine ? open_layer(symbol.a) : nullptr;
  if (layer != nullptr && repeats(symbol.center, layer->outputs) && repeats(symbol.scale, layer->outputs) &&
      repeats(symbol.offset, layer->outputs) && make_own(layer->weights)) {
    layer->bias.resize(layer->outputs, 0.0);
    std::vector<double>& weights = layer->weights.own();
    for (std::size_t n = 0; n < layer->outputs; ++n) {
      const double scale = at(symbol.scale, n, 1);
      for (std::size_t k = 0; k < layer->inputs; ++k) weights[k * layer->outputs + n] *= scale;
      if (!layer->quanta.empty()) layer->quanta[n] *= scale;
      layer->bias[n] = (layer->bias[n] - at(symbol.center, n, 0)) * scale + at(symbol.offset, n, 0);
    }
    const int value = symbol.a;
    symbol = Symbol();
    symbol.a = value;
    symbol.width = width;
  } else {
    share(symbol);
    Instruction instruction;
    instruction.op = symbol.form == Form::affine ? Op::affine : Op::difference;
    instruction.a = symbol.a;
    instruction.b = symbol.b;
    instruction.center = symbol.center;
    instruction.scale = symbol.scale;
    instruction.offset = symbol.offset;
    instruction.scale_b = symbol.scale_b;
    symbol = emit(std::move(instruction), width);
  }
  symbol.shape = shape;
  return symbol.a;
}

Symbol ProgramBuilder::apply(FunctionCall function, Symbol& symbol, bool only_reader) {
  if (function.function == Function::relu && is_scaled(symbol) && open_layer(symbol.a) == nullptr) {
    // On what is scaled, so that the scale may go on to a reader that it costs nothing.
    Symbol base = symbol;
    base.scale.clear();
    return multiply(apply(function, base, only_reader), symbol.scale);
  }
  const int value = materialize(symbol);
  if (only_reader && open_layer(value) != nullptr) {
    program_.instructions[static_cast<std::size_t>(producer_[static_cast<std::size_t>(value)])].function =
        function;
    return symbol;
  }
  Instruction instruction;
  instruction.op = Op::apply;
  instruction.a = read(symbol);
  instruction.function = function;
  Symbol result = emit(std::move(instruction), symbol.width);
  result.shape = symbol.shape;
  return result;
}

Symbol ProgramBuilder::dense(Dense layer, Symbol& symbol) {
  const bool shifts = !symbol.center.empty() || !symbol.offset.empty();
  const bool folds = layer.windows == 1 && symbol.form == Form::affine && !symbol.is_plain() &&
                     open_layer(symbol.a) == nullptr && (symbol.a != program_.input || !shifts) &&
                     make_own(layer.weights);
  Instruction instruction;
  instruction.op = Op::dense;
  if (folds) {
    layer.bias.resize(layer.outputs, 0.0);
    std::vector<double>& weights = layer.weights.own();
    for (std::size_t k = 0; k < layer.inputs; ++k) {
      const double scale = at(symbol.scale, k, 1);
      const double shift = at(symbol.offset, k, 0) - at(symbol.center, k, 0) * scale;
      for (std::size_t n = 0; n < layer.outputs; ++n) {
        double& weight = weights[k * layer.outputs + n];
        layer.bias[n] += shift * weight;
        weight *= scale;
      }
    }
    if (!symbol.scale.empty() && all_equal(symbol.scale)) {
      for (double& quantum : layer.quanta) quantum *= symbol.scale.front();
    } else if (!symbol.scale.empty()) {
      layer.quanta.clear();
    }
    share(symbol);
    instruction.a = symbol.a;
  } else {
    instruction.a = read(symbol);
  }
  const std::size_t width = layer.windows * layer.outputs;
  instruction.dense = std::move(layer);
  return emit(std::move(instruction), width);
}

Symbol ProgramBuilder::distances(Dense points, Symbol& symbol, double factor, FunctionCall function) {
  Instruction instruction;
  instruction.op = Op::distances;
  instruction.a = read(symbol);
  instruction.factor = factor;
  instruction.function = function;
  const std::size_t width = points.outputs;
  instruction.dense = std::move(points);
  return emit(std::move(instruction), width);
}

Symbol ProgramBuilder::binary(Op op, Symbol& left, Symbol& right) {
  Instruction instruction;
  instruction.op = op;
  instruction.a = read(left);
  instruction.b = read(right);
  Symbol result = emit(std::move(instruction), std::max(left.width, right.width));
  result.shape = left.width >= right.width ? left.shape : right.shape;
  return result;
}

Symbol ProgramBuilder::concat(const std::vector<Symbol*>& parts) {
  Symbol symbol;
  for (Symbol* part : parts) {
    static_cast<void>(read(*part));
    symbol.width += part->width;
  }
  symbol.a = new_value(symbol.width);
  symbol.shape = Shape::matrix(symbol.width);
  std::size_t column = 0;
  for (const Symbol* part : parts) {
    Instruction instruction;
    instruction.op = Op::copy;
    instruction.a = part->a;
    instruction.out = symbol.a;
    instruction.out_column = column;
    push(std::move(instruction));
    column += part->width;
  }
  return symbol;
}

Symbol ProgramBuilder::gather(Symbol& symbol, std::vector<int> columns) {
  Instruction instruction;
  instruction.op = Op::gather;
  instruction.a = read(symbol);
  instruction.indices = std::move(columns);
  const std::size_t width = instruction.indices.size();
  return emit(std::move(instruction), width);
}

Symbol ProgramBuilder::sum(Symbol& symbol, double factor) {
  Instruction instruction;
  instruction.factor = factor;
  if (symbol.form == Form::squares) {
    instruction.op = symbol.b >= 0 ? Op::sum_difference : Op::sum_squares;
    instruction.a = symbol.a;
    instruction.b = symbol.b;
    instruction.center = symbol.center;
    instruction.scale = symbol.scale;
    instruction.offset = symbol.offset;
    instruction.scale_b = symbol.scale_b;
    instruction.weights = symbol.weights;
    share(symbol);
  } else {
    instruction.op = Op::sum;
    const bool scales = symbol.form == Form::affine && symbol.center.empty() && symbol.offset.empty();
    instruction.weights = scales ? symbol.scale : Constants();
    if (scales) share(symbol);
    instruction.a = scales ? symbol.a : read(symbol);
  }
  if (!instruction.weights.empty() && all_equal(instruction.weights)) {
    instruction.factor *= instruction.weights.front();
    instruction.weights.clear();
  }
  return emit(std::move(instruction), 1);
}

Symbol ProgramBuilder::reduce(Op op, Symbol& symbol, std::size_t width) {
  Instruction instruction;
  instruction.op = op;
  instruction.a = read(symbol);
  return emit(std::move(instruction), width);
}

Symbol ProgramBuilder::trees(const TreeSum& sum) {
  Instruction instruction;
  instruction.op = Op::trees;
  instruction.a = sum.input;
  instruction.forest = sum.forest;
  Symbol result = emit(std::move(instruction), 1);
  if (sum.rank == 1) result.shape = Shape::vector();
  return sum.constant == 0 ? result : add(std::move(result), Constants{sum.constant});
}

Symbol ProgramBuilder::expand(Symbol& symbol, std::size_t width) {
  return dense({.inputs = 1, .outputs = width, .weights = Constants(width, 1.0), .bias = {}, .quanta = {}},
               symbol);
}

Program ProgramBuilder::finish(int score, int output, int contributions) {
  program_.score = score;
  program_.output = output;
  program_.contributions = contributions;
  return std::move(program_);
}

}  // namespace datasentinel::fused
