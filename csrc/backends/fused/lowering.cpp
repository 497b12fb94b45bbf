#include "backends/fused/lowering.h"

#include <algorithm>
#include <set>
#include <string>
#include <string_view>

#include "backends/fused/builder.h"
#include "backends/fused/operators.h"
#include "backends/fused/patterns.h"

namespace datasentinel::fused {
namespace {

using onnx::Graph;
using NodeIndices = std::vector<std::size_t>;

/// The input `name`: float32 [batch, D].
const onnx::ValueInfo& checked_input(const Graph& graph, std::string_view name) {
  constexpr std::int64_t kMaxColumns = std::int64_t{1} << 20;
  const auto found = std::find_if(graph.inputs.begin(), graph.inputs.end(),
                                  [name](const onnx::ValueInfo& input) { return input.name == name; });
  const std::string quoted = "\"" + std::string(name) + "\"";
  if (found == graph.inputs.end()) refuse_graph("it has no input " + quoted);
  if (found->type != onnx::ElementType::float32) {
    refuse_graph(quoted + " has type " + to_string(found->type) + ", not float32");
  }
  if (found->dims.size() != 2 || found->dims[1] < 1 || found->dims[1] > kMaxColumns) {
    refuse_graph(quoted + " must have the shape [batch, D] with a fixed number D of columns");
  }
  return *found;
}

bool has_output(const Graph& graph, std::string_view name) {
  return std::any_of(graph.outputs.begin(), graph.outputs.end(),
                     [name](const onnx::ValueInfo& output) { return output.name == name; });
}

/// The nodes that `output` depends on, in file order, which ONNX requires to be an order of execution.
NodeIndices needed_for(const Graph& graph, std::string_view output) {
  std::set<std::string, std::less<>> wanted{std::string(output)};
  NodeIndices nodes;
  for (std::size_t index = graph.nodes.size(); index-- > 0;) {
    const onnx::Node& node = graph.nodes[index];
    const bool is_wanted = std::any_of(node.outputs.begin(), node.outputs.end(),
                                       [&](const std::string& name) { return wanted.contains(name); });
    if (!is_wanted) continue;
    nodes.push_back(index);
    wanted.insert(node.inputs.begin(), node.inputs.end());
  }
  std::reverse(nodes.begin(), nodes.end());
  return nodes;
}

/// Readers of each tensor among `nodes`; the outputs that are wanted count as read.
Uses count_uses(const Graph& graph, const std::set<std::size_t>& nodes) {
  Uses uses;
  for (const std::size_t index : nodes) {
    for (const std::string& input : graph.nodes[index].inputs) ++uses[input];
  }
  for (const char* name : {"score", "output", "contributions", "state_next"}) {
    if (has_output(graph, name)) ++uses[name];
  }
  if (!has_output(graph, "score")) ++uses["output"];  // by the mean squared error
  return uses;
}

/// Of constants and attributes.
std::size_t count_numbers(const Graph& graph) {
  const auto size_of = [](const auto& numbers) { return numbers.reals.size() + numbers.integers.size(); };
  std::size_t count = 0;
  for (const auto& [name, tensor] : graph.constants) count += size_of(tensor);
  for (const onnx::Node& node : graph.nodes) {
    for (const onnx::Attribute& attribute : node.attributes) {
      count += size_of(attribute) + size_of(attribute.tensor);
    }
  }
  return count;
}

}  // namespace

Program lower(const Graph& original) {
  const Graph graph = with_activations_named(original);
  const bool has_memory = has_output(graph, "state_next");
  if (!has_memory && graph.inputs.size() != 1) {
    refuse_graph("it needs exactly one input, \"input\", unless it has an output \"state_next\"");
  }
  if (has_memory && graph.inputs.size() != 2) {
    refuse_graph("with an output \"state_next\" it needs two inputs, \"input\" and \"state\"");
  }
  const onnx::ValueInfo& input = checked_input(graph, "input");
  const bool has_score = has_output(graph, "score");
  const bool has_reconstruction = has_output(graph, "output");
  const bool has_contributions = has_output(graph, "contributions");
  if (!has_score && !has_reconstruction) refuse_graph("it has neither an output \"score\" nor \"output\"");

  const NodeIndices first = needed_for(graph, has_score ? "score" : "output");
  const NodeIndices memory = has_memory ? needed_for(graph, "state_next") : NodeIndices();
  const NodeIndices second = has_reconstruction ? needed_for(graph, "output") : NodeIndices();
  const NodeIndices third = has_contributions ? needed_for(graph, "contributions") : NodeIndices();
  std::set<std::size_t> needed(first.begin(), first.end());
  needed.insert(memory.begin(), memory.end());
  needed.insert(second.begin(), second.end());
  needed.insert(third.begin(), third.end());
  const Uses uses = count_uses(graph, needed);

  ProgramBuilder builder(count_numbers(graph));
  Operators operators(graph, uses, builder);
  operators.define(input.name, builder.input(static_cast<std::size_t>(input.dims[1])));
  if (has_memory) {
    const onnx::ValueInfo& state = checked_input(graph, "state");
    operators.define(state.name, builder.state(static_cast<std::size_t>(state.dims[1])));
  }
  const auto lower_nodes = [&](const NodeIndices& nodes) {
    for (const std::size_t index : nodes) {
      if (needed.erase(index) != 0) operators.lower(graph.nodes[index]);
    }
  };

  const auto shaped_like_input = [&](const std::string& name) -> Symbol& {
    Symbol& symbol = operators.symbol(name);
    if (!symbol.shape.is_matrix() || symbol.width != static_cast<std::size_t>(input.dims[1])) {
      refuse_graph("\"" + name + "\" has not the shape of \"input\"");
    }
    return symbol;
  };

  lower_nodes(first);
  if (!has_score) {
    Symbol residual = builder.difference(operators.symbol(input.name), shaped_like_input("output"));
    Symbol squares = builder.square(residual);
    const double share = 1.0 / static_cast<double>(residual.width);
    if (!has_contributions) {
      operators.define("contributions", builder.multiply(squares, std::vector<double>(squares.width, share)));
    }
    operators.define("score", builder.sum(squares, share));
  }
  Symbol& score = operators.symbol("score");
  if (score.width != 1) refuse_graph("\"score\" has more than one column");
  const int score_value = builder.materialize(score);
  if (has_memory) {
    lower_nodes(memory);
    Symbol& next = operators.symbol("state_next");
    if (!next.shape.is_matrix() || next.width != operators.symbol("state").width) {
      refuse_graph("\"state_next\" has not the shape of \"state\"");
    }
    builder.set_state_next(next);
  }
  builder.end_of_score();

  int output_value = -1;
  if (has_reconstruction) {
    lower_nodes(second);
    output_value = builder.materialize(shaped_like_input("output"));
  }
  builder.end_of_output();

  int contributions_value = -1;
  if (has_contributions || !has_score) {
    lower_nodes(third);
    contributions_value = builder.materialize(shaped_like_input("contributions"));
  }
  return builder.finish(score_value, output_value, contributions_value);
}

}  // namespace datasentinel::fused
