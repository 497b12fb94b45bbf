#include "backends/onnxruntime/signature.h"

#include <cstdint>
#include <utility>
#include <vector>

#include "core/error.h"

namespace datasentinel::onnxruntime {
namespace {

[[noreturn]] void refuse(const std::string& model_name, const std::string& reason) {
  throw Error(ErrorCode::unsupported_model, "'" + model_name + "': " + reason);
}

struct TensorType {
  std::string name;
  int element_type = 0;
  std::vector<std::int64_t> shape;  ///< -1 for a dynamic dimension.
};

TensorType tensor_type(const Api& api, const OrtSession* session, std::size_t index, bool is_input) {
  const char* what = "reading the model's inputs and outputs";
  TensorType type;

  OrtAllocator* allocator = nullptr;  // ONNX Runtime's own, never released.
  api.check(api.GetAllocatorWithDefaultOptions(&allocator), what);
  char* name = nullptr;
  api.check(is_input ? api.SessionGetInputName(session, index, allocator, &name)
                     : api.SessionGetOutputName(session, index, allocator, &name),
            what);
  type.name = name;
  api.check(api.AllocatorFree(allocator, name), what);

  TypeInfo info(api);
  api.check(is_input ? api.SessionGetInputTypeInfo(session, index, info.out())
                     : api.SessionGetOutputTypeInfo(session, index, info.out()),
            what);
  const OrtTensorTypeAndShapeInfo* shape = nullptr;  // Borrowed from info; null when not a tensor.
  api.check(api.CastTypeInfoToTensorInfo(info.get(), &shape), what);
  if (shape == nullptr) return type;
  api.check(api.GetTensorElementType(shape, &type.element_type), what);
  std::size_t rank = 0;
  api.check(api.GetDimensionsCount(shape, &rank), what);
  type.shape.resize(rank);
  api.check(api.GetDimensions(shape, type.shape.data(), rank), what);
  return type;
}

}  // namespace

Needs needs_of(const Signature& signature, const Outputs& outputs) {
  if (outputs.reconstructions != nullptr && signature.reconstruction.empty()) {
    throw Error(ErrorCode::unsupported_model, "this model scores only; it has no output 'output'");
  }
  if (outputs.contributions != nullptr && signature.contributions.empty() && !signature.score.empty()) {
    throw Error(ErrorCode::unsupported_model,
                "this model does not explain its scores; it has no output 'contributions'");
  }
  Needs needs;
  needs.score_by_us = outputs.scores != nullptr && signature.score.empty();
  needs.score = outputs.scores != nullptr && !needs.score_by_us;
  needs.contributions_by_us = outputs.contributions != nullptr && signature.contributions.empty();
  needs.contributions = outputs.contributions != nullptr && !needs.contributions_by_us;
  needs.reconstruction = outputs.reconstructions != nullptr || needs.score_by_us || needs.contributions_by_us;
  return needs;
}

Signature read_signature(const Api& api, const OrtSession* session, const std::string& model_name) {
  Signature signature;
  std::size_t input_count = 0;
  std::size_t output_count = 0;
  api.check(api.SessionGetInputCount(session, &input_count), "counting inputs");
  api.check(api.SessionGetOutputCount(session, &output_count), "counting outputs");
  if (input_count != 1 && input_count != 2) {
    refuse(model_name, "expected 1 input, or 2 with memory, the graph has " + std::to_string(input_count));
  }

  TensorType input = tensor_type(api, session, 0, true);
  if (input_count == 2) {
    TensorType state = tensor_type(api, session, 1, true);
    if (input.name == "state") std::swap(input, state);
    const bool is_matrix = state.element_type == kElementTypeFloat && state.shape.size() == 2;
    if (state.name != "state" || !is_matrix || state.shape[1] < 1) {
      refuse(model_name, "its second input must be 'state', float32 [batch, S] with a fixed S");
    }
    signature.state = state.name;
    signature.state_dim = static_cast<std::size_t>(state.shape[1]);
  }
  if (input.element_type != kElementTypeFloat || input.shape.size() != 2 || input.shape[1] < 1) {
    refuse(model_name, "input '" + input.name + "' must be float32 [batch, D] with a fixed D");
  }
  if (input.shape[0] > 1) {
    refuse(model_name, "input '" + input.name + "' has a fixed batch of " + std::to_string(input.shape[0]) +
                           "; export it with a dynamic batch axis");
  }
  signature.input = input.name;
  signature.input_dim = static_cast<std::size_t>(input.shape[1]);
  signature.one_row_at_a_time = input.shape[0] == 1;

  for (std::size_t index = 0; index < output_count; ++index) {
    const TensorType output = tensor_type(api, session, index, false);
    if (output.element_type != kElementTypeFloat) continue;
    const std::size_t rank = output.shape.size();
    if (output.name == "score" && (rank == 1 || (rank == 2 && output.shape[1] == 1))) {
      signature.score = output.name;
      signature.score_rank = rank;
    } else if (output.name == "output" && rank == 2 && output.shape[1] == input.shape[1]) {
      signature.reconstruction = output.name;
    } else if (output.name == "state_next" && rank == 2 &&
               output.shape[1] == static_cast<std::int64_t>(signature.state_dim)) {
      signature.state_next = output.name;
    } else if (output.name == "contributions" && rank == 2 && output.shape[1] == input.shape[1]) {
      signature.contributions = output.name;
    }
  }
  if (signature.state.empty() != signature.state_next.empty()) {
    refuse(model_name,
           "an input 'state' needs an output 'state_next' of the same shape, and the other way round");
  }
  if (signature.score.empty() && signature.reconstruction.empty()) {
    refuse(model_name, "needs an output 'score' float32 [batch] or 'output' float32 [batch, " +
                           std::to_string(signature.input_dim) + "]");
  }
  return signature;
}

}  // namespace datasentinel::onnxruntime
