#include <algorithm>
#include <array>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "backends/fused/constants.h"
#include "backends/fused/operators.h"
#include "core/error.h"

namespace datasentinel::fused {

using onnx::Node;
using onnx::Tensor;

// Recurrent layers, step by step: every step of a layer has the same weights, which its steps share. The
// equations are those of https://onnx.ai/onnx/operators/ (LSTM, GRU, RNN).

namespace {

/// One direction of a layer: weights in [gate][hidden][input] as in the file, the gates in its order.
struct Cell {
  std::size_t gates = 0;
  std::size_t inputs = 0;
  std::size_t hidden = 0;
  std::vector<double> of_input, of_state, input_bias, state_bias;

  [[nodiscard]] double input_weight(std::size_t gate, std::size_t h, std::size_t k) const {
    return of_input[(gate * hidden + h) * inputs + k];
  }
  [[nodiscard]] double state_weight(std::size_t gate, std::size_t h, std::size_t k) const {
    return of_state[(gate * hidden + h) * hidden + k];
  }
};

enum Part : unsigned { kOfInput = 1, kOfState = 2, kOfBoth = 3 };

/// What a layer makes: the parts of some gates, beside each other, of an input and a state beside each other.
struct GatePart {
  std::size_t gate;
  Part part;
};

Dense layer_of(const Cell& cell, const std::vector<GatePart>& parts) {
  Dense layer;
  layer.inputs = cell.inputs + cell.hidden;
  layer.outputs = parts.size() * cell.hidden;
  std::vector<double> weights(layer.inputs * layer.outputs, 0.0);
  layer.bias.resize(layer.outputs, 0.0);
  for (std::size_t p = 0; p < parts.size(); ++p) {
    const auto [gate, part] = parts[p];
    for (std::size_t h = 0; h < cell.hidden; ++h) {
      const std::size_t out = p * cell.hidden + h;
      const std::size_t at = gate * cell.hidden + h;
      if ((part & kOfInput) != 0) {
        for (std::size_t k = 0; k < cell.inputs; ++k) {
          weights[k * layer.outputs + out] = cell.input_weight(gate, h, k);
        }
        layer.bias[out] += cell.input_bias[at];
      }
      if ((part & kOfState) != 0) {
        for (std::size_t k = 0; k < cell.hidden; ++k) {
          weights[(cell.inputs + k) * layer.outputs + out] = cell.state_weight(gate, h, k);
        }
        layer.bias[out] += cell.state_bias[at];
      }
    }
  }
  layer.weights = std::move(weights);
  return layer;
}

Symbol columns_from(ProgramBuilder& builder, Symbol& x, std::size_t first, std::size_t count) {
  std::vector<int> columns = all_of(count);
  for (int& column : columns) column += static_cast<int>(first);
  return builder.gather(x, std::move(columns));
}

Symbol apply(ProgramBuilder& builder, Function function, Symbol symbol) {
  return builder.apply({.function = function}, symbol, true);
}

/// What one step makes of an input, of a state and, of an LSTM, of a cell state.
class Stepper {
 public:
  Stepper(ProgramBuilder& builder, const Node& node, const Cell& cell) : builder_(builder), cell_(cell) {
    resets_before_ = node.op_type == "GRU" && node.integer_or("linear_before_reset", 0) == 0;
    if (node.op_type == "LSTM") {  // The gates i, o, f and c.
      layer_ = layer_of(cell, {{0, kOfBoth}, {1, kOfBoth}, {2, kOfBoth}, {3, kOfBoth}});
    } else if (node.op_type == "RNN") {
      layer_ = layer_of(cell, {{0, kOfBoth}});
      const onnx::Attribute* found = node.attribute("activations");
      function_ = found != nullptr && found->texts.front() == "Relu" ? Function::relu : Function::tanh;
    } else if (resets_before_) {  // z, r and h.
      layer_ = layer_of(cell, {{0, kOfBoth}, {1, kOfBoth}});
      candidate_layer_ = layer_of(cell, {{2, kOfBoth}});
    } else {
      layer_ = layer_of(cell, {{0, kOfBoth}, {1, kOfBoth}, {2, kOfInput}, {2, kOfState}});
    }
    kind_ = node.op_type;
  }

  void step(Symbol& x, Symbol& state, Symbol& cell_state) {
    Symbol both = builder_.concat({&x, &state});
    Symbol gates = builder_.dense(layer_, both);
    if (kind_ == "RNN") {
      state = apply(builder_, function_, std::move(gates));
    } else if (kind_ == "GRU") {
      state = gated(x, state, gates);
    } else {
      Symbol sigmoids = apply(builder_, Function::sigmoid, part(gates, 0, 3));
      Symbol candidate = apply(builder_, Function::tanh, part(gates, 3, 1));
      Symbol in = part(sigmoids, 0, 1);
      Symbol out = part(sigmoids, 1, 1);
      Symbol forget = part(sigmoids, 2, 1);
      Symbol kept = builder_.binary(Op::multiply, forget, cell_state);
      Symbol added = builder_.binary(Op::multiply, in, candidate);
      cell_state = builder_.binary(Op::add, kept, added);
      Symbol activated = apply(builder_, Function::tanh, cell_state);
      state = builder_.binary(Op::multiply, out, activated);
    }
  }

 private:
  Symbol part(Symbol& gates, std::size_t first, std::size_t count) {
    return columns_from(builder_, gates, first * cell_.hidden, count * cell_.hidden);
  }

  Symbol gated(Symbol& x, Symbol& state, Symbol& gates) {
    Symbol sigmoids = apply(builder_, Function::sigmoid, part(gates, 0, 2));
    Symbol update = part(sigmoids, 0, 1);
    Symbol reset = part(sigmoids, 1, 1);
    Symbol candidate;
    if (resets_before_) {
      Symbol kept = builder_.binary(Op::multiply, reset, state);
      Symbol both = builder_.concat({&x, &kept});
      candidate = apply(builder_, Function::tanh, builder_.dense(candidate_layer_, both));
    } else {
      Symbol of_input = part(gates, 2, 1);
      Symbol of_state = part(gates, 3, 1);
      Symbol kept = builder_.binary(Op::multiply, reset, of_state);
      candidate = apply(builder_, Function::tanh, builder_.binary(Op::add, of_input, kept));
    }
    // (1 - z) candidate + z state
    Symbol change = builder_.binary(Op::subtract, state, candidate);
    Symbol moved = builder_.binary(Op::multiply, update, change);
    return builder_.binary(Op::add, candidate, moved);
  }

  ProgramBuilder& builder_;
  const Cell& cell_;
  std::string kind_;
  bool resets_before_ = false;
  Function function_ = Function::tanh;
  Dense layer_, candidate_layer_;
};

bool is_given(const Node& node, std::size_t index) {
  return index < node.inputs.size() && !node.inputs[index].empty();
}

/// Only what every exporter writes.
void require_usual(const Node& node, std::size_t directions) {
  if (node.integer_or("layout", 0) != 0) refuse(node, "layout is not 0");
  if (node.integer_or("input_forget", 0) != 0) refuse(node, "input_forget is not supported");
  if (node.attribute("clip") != nullptr) refuse(node, "clip is not supported");
  if (is_given(node, 4)) refuse(node, "the lengths of its sequences are given");
  if (is_given(node, 7)) refuse(node, "it has peepholes");
  const onnx::Attribute* found = node.attribute("activations");
  if (found == nullptr) return;
  std::vector<std::string> usual;
  for (std::size_t d = 0; d < directions; ++d) {
    if (node.op_type == "RNN") {
      const bool is_relu = !found->texts.empty() && found->texts.front() == "Relu";
      usual.emplace_back(is_relu ? "Relu" : "Tanh");
    } else {
      usual.insert(usual.end(), {"Sigmoid", "Tanh"});
      if (node.op_type == "LSTM") usual.emplace_back("Tanh");
    }
  }
  if (found->texts != usual) refuse(node, "its activations are not the usual ones");
}

std::size_t gates_of(const Node& node) { return node.op_type == "LSTM" ? 4 : node.op_type == "GRU" ? 3 : 1; }

}  // namespace

/// The state that direction `index` of the layer begins with.
Symbol Operators::first_state(const Node& node, std::size_t input_index, std::size_t index,
                              std::size_t hidden, std::size_t directions) {
  Symbol& x = input(node, 0);
  Symbol zeros = builder_.gather(x, std::vector<int>(hidden, kZero));
  if (!is_given(node, input_index)) return zeros;
  if (const Tensor* tensor = constant_input(node, input_index)) {
    const std::vector<double> values = numbers(*tensor);
    const std::size_t rows = rows_axis(node.inputs[input_index]);
    if (tensor->dims.size() != 3 || tensor->dims[1] != 1 || values.size() != directions * hidden ||
        (rows != Shape::kNoBatch && rows != 1)) {
      refuse(node, "its initial state is not the same for all rows");
    }
    const auto first = values.begin() + static_cast<std::ptrdiff_t>(index * hidden);
    const std::vector<double> state(first, first + static_cast<std::ptrdiff_t>(hidden));
    if (std::ranges::all_of(state, [](double value) { return value == 0; })) return zeros;
    return builder_.add(std::move(zeros), state);
  }
  Symbol& given = input(node, input_index);
  put_in_order(given);
  if (given.shape.sizes() != std::vector{directions, hidden} || given.shape.batch != 1) {
    throw Error(ErrorCode::invalid_model, node.describe() + " has an initial state of the wrong shape");
  }
  return columns_from(builder_, given, index * hidden, hidden);
}

void Operators::recurrent(const Node& node) {
  const onnx::Attribute* found = node.attribute("direction");
  const std::string direction = found == nullptr ? "forward" : found->text;
  const std::size_t directions = direction == "bidirectional" ? 2 : 1;
  if (directions == 1 && direction != "forward" && direction != "reverse") {
    refuse(node, "it does not know the direction " + direction);
  }
  require_usual(node, directions);
  Symbol& x = input(node, 0);
  if (x.shape.axes.size() != 2 || x.shape.batch != 1)
    refuse(node, "its input is not [steps, batch, columns]");
  put_in_order(x);
  builder_.share(x);
  const std::size_t steps = x.shape.axes[0].size;
  const std::size_t inputs = x.shape.axes[1].size;
  const std::size_t gates = gates_of(node);
  const Tensor* weights[3] = {constant_input(node, 1), constant_input(node, 2), constant_input(node, 3)};
  if (weights[0] == nullptr || weights[1] == nullptr || (is_given(node, 3) && weights[2] == nullptr)) {
    refuse(node, "its weights are not constant");
  }
  const auto rows = weights[1]->dims.size() == 3 ? weights[1]->dims[2] : 0;
  const auto hidden = static_cast<std::size_t>(rows);
  using Dims = std::vector<std::int64_t>;
  const auto d = static_cast<std::int64_t>(directions);
  const auto g = static_cast<std::int64_t>(gates);
  const bool fits = rows > 0 && rows <= 1 << 16 && weights[1]->dims == Dims{d, g * rows, rows} &&
                    weights[0]->dims == Dims{d, g * rows, static_cast<std::int64_t>(inputs)} &&
                    (weights[2] == nullptr || weights[2]->dims == Dims{d, 2 * g * rows}) &&
                    node.integer_or("hidden_size", rows) == rows;
  if (!fits) {
    throw Error(ErrorCode::invalid_model, node.describe() + " has weights that do not fit together, or not " +
                                              std::to_string(inputs) + " columns");
  }
  // Every step is some steps of the program, and a small file may ask for many.
  constexpr std::size_t kMostSteps = 1024;
  recurrent_steps_ += steps * directions;
  if (recurrent_steps_ > kMostSteps) {
    refuse(node, "recurrent layers take more than " + std::to_string(kMostSteps) + " steps together");
  }
  count_layer(node, inputs + hidden, directions * (gates + 1) * hidden);
  const std::vector<double> of_input = numbers(*weights[0]);
  const std::vector<double> of_state = numbers(*weights[1]);
  const std::vector<double> biases = weights[2] == nullptr
                                         ? std::vector<double>(2 * directions * gates * hidden, 0.0)
                                         : numbers(*weights[2]);

  std::vector<Symbol> states(steps * directions);  // [step][direction]
  std::vector<Symbol> last_states, last_cells;
  for (std::size_t index = 0; index < directions; ++index) {
    const auto part = [index](const std::vector<double>& values, std::size_t size) {
      const auto first = values.begin() + static_cast<std::ptrdiff_t>(index * size);
      return std::vector<double>(first, first + static_cast<std::ptrdiff_t>(size));
    };
    const std::size_t width = gates * hidden;
    const std::vector<double> both = part(biases, 2 * width);
    const Cell cell{.gates = gates,
                    .inputs = inputs,
                    .hidden = hidden,
                    .of_input = part(of_input, width * inputs),
                    .of_state = part(of_state, width * hidden),
                    .input_bias = {both.begin(), both.begin() + static_cast<std::ptrdiff_t>(width)},
                    .state_bias = {both.begin() + static_cast<std::ptrdiff_t>(width), both.end()}};
    Stepper stepper(builder_, node, cell);
    Symbol state = first_state(node, 5, index, hidden, directions);
    Symbol cell_state = gates == 4 ? first_state(node, 6, index, hidden, directions) : Symbol();
    const bool is_reverse = direction == "reverse" || index == 1;
    for (std::size_t i = 0; i < steps; ++i) {
      const std::size_t at = is_reverse ? steps - 1 - i : i;
      Symbol row = columns_from(builder_, x, at * inputs, inputs);
      stepper.step(row, state, cell_state);
      states[at * directions + index] = state;
    }
    last_states.push_back(state);
    last_cells.push_back(cell_state);
  }
  const auto define_joined = [&](std::size_t output, std::vector<Symbol>& parts, const Shape& shape) {
    if (output >= node.outputs.size() || node.outputs[output].empty()) return;
    if (!is_used(node.outputs[output])) return;
    std::vector<Symbol*> pointers;
    pointers.reserve(parts.size());
    for (Symbol& part : parts) pointers.push_back(&part);
    Symbol result = builder_.concat(pointers);
    result.shape = shape;
    define_output(node, output, std::move(result));
  };
  define_joined(0, states, Shape::in_order({steps, directions, hidden}, 2));
  define_joined(1, last_states, Shape::in_order({directions, hidden}, 1));
  if (gates == 4) define_joined(2, last_cells, Shape::in_order({directions, hidden}, 1));
}

}  // namespace datasentinel::fused
