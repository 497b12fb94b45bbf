#include "onnx/operators.h"

#include <algorithm>
#include <array>
#include <limits>
#include <set>
#include <span>
#include <string>
#include <string_view>

#include "core/error.h"

// Numbers of inputs and outputs and kinds of attributes are those of
// https://onnx.ai/onnx/operators/, over all versions of each operator.

namespace datasentinel::onnx {
namespace {

using Kind = Attribute::Kind;

constexpr std::size_t kAny = std::numeric_limits<std::size_t>::max();

struct Count {
  std::size_t min = 1;
  std::size_t max = 1;
};

struct Rule {
  std::string_view op_type;
  Count inputs;
  Count outputs;
  /// Inputs from this one on are whole numbers (axes, indices, shapes); all inputs are values otherwise.
  std::size_t first_whole_input = kAny;
};

constexpr Count kOne{1, 1};
constexpr Count kTwo{2, 2};
constexpr Count kOneOrTwo{1, 2};

/// Sorted by name.
constexpr std::array kRules{
    Rule{"Abs", kOne, kOne},
    Rule{"Add", kTwo, kOne},
    Rule{"And", kTwo, kOne},
    Rule{"BatchNormalization", {5, 5}, {1, 5}},
    Rule{"Cast", kOne, kOne},
    Rule{"Ceil", kOne, kOne},
    Rule{"Clip", {1, 3}, kOne},
    Rule{"Concat", {1, kAny}, kOne},
    Rule{"ConstantOfShape", kOne, kOne},
    Rule{"Conv", {2, 3}, kOne},
    Rule{"ConvTranspose", {2, 3}, kOne},
    Rule{"DequantizeLinear", {2, 3}, kOne},
    Rule{"Div", kTwo, kOne},
    Rule{"Dropout", {1, 3}, kOneOrTwo},
    Rule{"Elu", kOne, kOne},
    Rule{"Equal", kTwo, kOne},
    Rule{"Erf", kOne, kOne},
    Rule{"Exp", kOne, kOne},
    Rule{"Expand", kTwo, kOne, 1},
    Rule{"Flatten", kOne, kOne},
    Rule{"Floor", kOne, kOne},
    Rule{"GRU", {3, 6}, kOneOrTwo},
    Rule{"Gather", kTwo, kOne, 1},
    Rule{"Gelu", kOne, kOne},
    Rule{"Gemm", {2, 3}, kOne},
    Rule{"Greater", kTwo, kOne},
    Rule{"GreaterOrEqual", kTwo, kOne},
    Rule{"HardSigmoid", kOne, kOne},
    Rule{"HardSwish", kOne, kOne},
    Rule{"Identity", kOne, kOne},
    Rule{"LSTM", {3, 8}, {1, 3}},
    Rule{"LeakyRelu", kOne, kOne},
    Rule{"Less", kTwo, kOne},
    Rule{"LessOrEqual", kTwo, kOne},
    Rule{"Log", kOne, kOne},
    Rule{"MatMul", kTwo, kOne},
    Rule{"Max", {1, kAny}, kOne},
    Rule{"Min", {1, kAny}, kOne},
    Rule{"Mish", kOne, kOne},
    Rule{"Mul", kTwo, kOne},
    Rule{"Neg", kOne, kOne},
    Rule{"Not", kOne, kOne},
    Rule{"Or", kTwo, kOne},
    Rule{"Pad", {1, 4}, kOne},
    Rule{"Pow", kTwo, kOne},
    Rule{"QuantizeLinear", {2, 3}, kOne},
    Rule{"RNN", {3, 6}, kOneOrTwo},
    Rule{"Reciprocal", kOne, kOne},
    Rule{"ReduceL1", kOneOrTwo, kOne, 1},
    Rule{"ReduceL2", kOneOrTwo, kOne, 1},
    Rule{"ReduceMax", kOneOrTwo, kOne, 1},
    Rule{"ReduceMean", kOneOrTwo, kOne, 1},
    Rule{"ReduceMin", kOneOrTwo, kOne, 1},
    Rule{"ReduceSum", kOneOrTwo, kOne, 1},
    Rule{"ReduceSumSquare", kOneOrTwo, kOne, 1},
    Rule{"Relu", kOne, kOne},
    Rule{"Reshape", kOneOrTwo, kOne, 1},
    Rule{"Selu", kOne, kOne},
    Rule{"Shape", kOne, kOne},
    Rule{"Sigmoid", kOne, kOne},
    Rule{"Sign", kOne, kOne},
    Rule{"Slice", {1, 5}, kOne, 1},
    Rule{"Softplus", kOne, kOne},
    Rule{"Softsign", kOne, kOne},
    Rule{"Split", kOneOrTwo, {1, kAny}, 1},
    Rule{"Sqrt", kOne, kOne},
    Rule{"Squeeze", kOneOrTwo, kOne, 1},
    Rule{"Sub", kTwo, kOne},
    Rule{"Sum", {1, kAny}, kOne},
    Rule{"Swish", kOne, kOne},
    Rule{"Tanh", kOne, kOne},
    Rule{"Tile", {2, 3}, kOne},
    Rule{"TopK", kOneOrTwo, kTwo, 1},
    Rule{"Transpose", kOne, kOne},
    Rule{"Unsqueeze", kOneOrTwo, kOne, 1},
    Rule{"Where", {3, 3}, kOne},
    Rule{"ai.onnx.ml:LabelEncoder", kOne, kOne},
    Rule{"ai.onnx.ml:SVMRegressor", kOne, kOne},
    Rule{"ai.onnx.ml:Scaler", kOne, kOne},
    Rule{"ai.onnx.ml:TreeEnsembleClassifier", kOne, kTwo},
    Rule{"ai.onnx.ml:TreeEnsembleRegressor", kOne, kOne},
};
static_assert(std::is_sorted(kRules.begin(), kRules.end(),
                             [](const Rule& a, const Rule& b) { return a.op_type < b.op_type; }));

struct AttributeRule {
  std::string_view name;
  Kind kind;
};

/// Attributes of the operators above, each of which means the same kind wherever it occurs.
constexpr std::array kAttributes{
    AttributeRule{"activations", Kind::texts},
    AttributeRule{"aggregate_function", Kind::text},
    AttributeRule{"allowzero", Kind::integer},
    AttributeRule{"alpha", Kind::real},
    AttributeRule{"approximate", Kind::text},
    AttributeRule{"auto_pad", Kind::text},
    AttributeRule{"axes", Kind::integers},
    AttributeRule{"axis", Kind::integer},
    AttributeRule{"base_values", Kind::reals},
    AttributeRule{"beta", Kind::real},
    AttributeRule{"block_size", Kind::integer},
    AttributeRule{"broadcast", Kind::integer},
    AttributeRule{"class_ids", Kind::integers},
    AttributeRule{"class_nodeids", Kind::integers},
    AttributeRule{"class_treeids", Kind::integers},
    AttributeRule{"class_weights", Kind::reals},
    AttributeRule{"classlabels_int64s", Kind::integers},
    AttributeRule{"classlabels_strings", Kind::texts},
    AttributeRule{"clip", Kind::real},
    AttributeRule{"coefficients", Kind::reals},
    AttributeRule{"default_float", Kind::real},
    AttributeRule{"default_int64", Kind::integer},
    AttributeRule{"dilations", Kind::integers},
    AttributeRule{"direction", Kind::text},
    AttributeRule{"end", Kind::integer},
    AttributeRule{"ends", Kind::integers},
    AttributeRule{"epsilon", Kind::real},
    AttributeRule{"gamma", Kind::real},
    AttributeRule{"group", Kind::integer},
    AttributeRule{"hidden_size", Kind::integer},
    AttributeRule{"input_forget", Kind::integer},
    AttributeRule{"is_test", Kind::integer},
    AttributeRule{"k", Kind::integer},
    AttributeRule{"keepdims", Kind::integer},
    AttributeRule{"kernel_params", Kind::reals},
    AttributeRule{"kernel_shape", Kind::integers},
    AttributeRule{"kernel_type", Kind::text},
    AttributeRule{"keys_floats", Kind::reals},
    AttributeRule{"keys_int64s", Kind::integers},
    AttributeRule{"largest", Kind::integer},
    AttributeRule{"layout", Kind::integer},
    AttributeRule{"linear_before_reset", Kind::integer},
    AttributeRule{"max", Kind::real},
    AttributeRule{"min", Kind::real},
    AttributeRule{"mode", Kind::text},
    AttributeRule{"momentum", Kind::real},
    AttributeRule{"n_supports", Kind::integer},
    AttributeRule{"n_targets", Kind::integer},
    AttributeRule{"nodes_falsenodeids", Kind::integers},
    AttributeRule{"nodes_featureids", Kind::integers},
    AttributeRule{"nodes_missing_value_tracks_true", Kind::integers},
    AttributeRule{"nodes_modes", Kind::texts},
    AttributeRule{"nodes_nodeids", Kind::integers},
    AttributeRule{"nodes_treeids", Kind::integers},
    AttributeRule{"nodes_truenodeids", Kind::integers},
    AttributeRule{"nodes_values", Kind::reals},
    AttributeRule{"noop_with_empty_axes", Kind::integer},
    AttributeRule{"num_outputs", Kind::integer},
    AttributeRule{"offset", Kind::reals},
    AttributeRule{"one_class", Kind::integer},
    AttributeRule{"output_dtype", Kind::integer},
    AttributeRule{"output_padding", Kind::integers},
    AttributeRule{"output_shape", Kind::integers},
    AttributeRule{"pads", Kind::integers},
    AttributeRule{"perm", Kind::integers},
    AttributeRule{"post_transform", Kind::text},
    AttributeRule{"ratio", Kind::real},
    AttributeRule{"rho", Kind::reals},
    AttributeRule{"scale", Kind::reals},
    AttributeRule{"shape", Kind::integers},
    AttributeRule{"sorted", Kind::integer},
    AttributeRule{"spatial", Kind::integer},
    AttributeRule{"split", Kind::integers},
    AttributeRule{"start", Kind::integer},
    AttributeRule{"starts", Kind::integers},
    AttributeRule{"strides", Kind::integers},
    AttributeRule{"support_vectors", Kind::reals},
    AttributeRule{"target_ids", Kind::integers},
    AttributeRule{"target_nodeids", Kind::integers},
    AttributeRule{"target_treeids", Kind::integers},
    AttributeRule{"target_weights", Kind::reals},
    AttributeRule{"to", Kind::integer},
    AttributeRule{"training_mode", Kind::integer},
    AttributeRule{"transA", Kind::integer},
    AttributeRule{"transB", Kind::integer},
    AttributeRule{"values_floats", Kind::reals},
    AttributeRule{"values_int64s", Kind::integers},
};

/// The attributes that can hold a Constant node's value.
constexpr std::array kConstantValues{
    AttributeRule{"value", Kind::tensor},        AttributeRule{"value_float", Kind::real},
    AttributeRule{"value_floats", Kind::reals},  AttributeRule{"value_int", Kind::integer},
    AttributeRule{"value_ints", Kind::integers}, AttributeRule{"value_string", Kind::text},
    AttributeRule{"value_strings", Kind::texts}, AttributeRule{"sparse_value", Kind::other},
};

[[noreturn]] void fail(const Node& node, const std::string& problem) {
  throw Error(ErrorCode::invalid_model, node.describe() + " " + problem);
}

const Rule* rule_for(const Node& node) {
  const std::string type = node.type();
  const auto* found =
      std::lower_bound(kRules.begin(), kRules.end(), type,
                       [](const Rule& rule, const std::string& op) { return rule.op_type < op; });
  return found != kRules.end() && found->op_type == type ? found : nullptr;
}

std::string in_words(Count count) {
  std::string min = std::to_string(count.min);
  if (count.min == count.max) return min;
  return count.max == kAny ? "at least " + min : min + " to " + std::to_string(count.max);
}

void require_count(const Node& node, std::size_t found, Count allowed, const std::string& what) {
  if (found >= allowed.min && found <= allowed.max) return;
  fail(node, "has " + std::to_string(found) + " " + what + "s, not " + in_words(allowed));
}

void require_kind(const Node& node, const Attribute& attribute, std::span<const AttributeRule> rules) {
  const auto rule = std::find_if(rules.begin(), rules.end(),
                                 [&](const AttributeRule& known) { return known.name == attribute.name; });
  if (rule != rules.end() && rule->kind != attribute.kind) {
    fail(node, "has an attribute \"" + attribute.name + "\" of the wrong kind");
  }
}

void require_rule(const Graph& graph, const Node& node, const Rule& rule) {
  require_count(node, node.inputs.size(), rule.inputs, "input");
  require_count(node, node.outputs.size(), rule.outputs, "output");
  for (std::size_t i = 0; i < rule.inputs.min; ++i) {
    if (node.inputs[i].empty()) fail(node, "lacks input " + std::to_string(i));
  }
  for (const Attribute& attribute : node.attributes) {
    // The first versions of Cast named the type.
    if (node.op_type == "Cast" && attribute.kind == Kind::text) continue;
    require_kind(node, attribute, kAttributes);
  }
  for (std::size_t i = rule.first_whole_input; i < node.inputs.size(); ++i) {
    const Tensor* tensor = graph.constant(node.inputs[i]);
    if (tensor == nullptr || tensor->type == ElementType::int64 || tensor->type == ElementType::int32)
      continue;
    fail(node, "has the constant \"" + tensor->name + "\" of type " + to_string(tensor->type) + " as input " +
                   std::to_string(i) + ", where whole numbers belong");
  }
}

}  // namespace

void require_constant(const Node& node) {
  if (node.outputs.size() != 1 || node.outputs[0].empty()) fail(node, "needs exactly one output");
  if (node.attributes.size() != 1) fail(node, "needs exactly one value");
  require_kind(node, node.attributes[0], kConstantValues);
}

void require_well_formed(const Graph& graph) {
  std::set<std::string_view> defined;
  for (const auto& [name, tensor] : graph.constants) defined.insert(name);
  for (const ValueInfo& input : graph.inputs) {
    if (!defined.insert(input.name).second) {
      throw Error(ErrorCode::invalid_model, "\"" + input.name + "\" is an input twice");
    }
  }
  for (const Node& node : graph.nodes) {
    if (const Rule* rule = rule_for(node)) require_rule(graph, node, *rule);
    for (const std::string& output : node.outputs) {
      if (!output.empty() && !defined.insert(output).second) {
        fail(node, "computes \"" + output + "\", which is there already");
      }
    }
  }
  for (const Node& node : graph.nodes) {
    for (const std::string& input : node.inputs) {
      if (!input.empty() && !defined.contains(input)) {
        fail(node, "reads \"" + input + "\", which nothing computes");
      }
    }
  }
  for (const ValueInfo& output : graph.outputs) {
    if (!defined.contains(output.name)) {
      throw Error(ErrorCode::invalid_model, "nothing computes the output \"" + output.name + "\"");
    }
  }
}

}  // namespace datasentinel::onnx
