#include "backends/fused/backend.h"

#include "backends/fused/distances.h"
#include "backends/fused/isa.h"
#include "backends/fused/lowering.h"
#include "backends/fused/session.h"
#include "backends/fused/takers.h"
#include "backends/fused/word_layers.h"
#include "core/error.h"
#include "onnx/graph.h"

namespace datasentinel {
namespace {

fused::Arithmetic arithmetic_of(std::string_view precision) {
  if (precision == "float32") return fused::Arithmetic::int8;  // where the file says so
  if (precision == "bf16") return fused::Arithmetic::bf16;
  throw Error(ErrorCode::unsupported_model,
              "the fused backend computes in float32 or bf16, not in " + std::string(precision));
}

/// What multiplies a model's layers in `arithmetic`. Layers whose weights and inputs are quantised in the
/// file are in int8 then, where the processor has instructions for it.
const fused::WordKernels* words_for(fused::Arithmetic arithmetic, const fused::InstructionSet& set) {
  if (arithmetic == fused::Arithmetic::int8) return set.int8 == nullptr ? nullptr : &set.int8();
  if (set.bf16 != nullptr) return &set.bf16();
  throw Error(ErrorCode::unavailable,
              "precision bf16 on the fused backend needs a processor with amx_bf16 or avx512_bf16; here it "
              "computes with " +
                  set.name + " (float32 runs everywhere)");
}

class FusedBackend final : public Backend {
 public:
  [[nodiscard]] std::string_view name() const noexcept override { return "fused"; }

  [[nodiscard]] BackendStatus status() override {
    try {
      return {.availability = Availability::available,
              .detail = {},
              .version = fused::choose_instruction_set().kernels().isa,
              .library = {}};
    } catch (const Error& error) {
      return {.availability = Availability::no_device, .detail = error.what(), .version = {}, .library = {}};
    }
  }

  [[nodiscard]] std::unique_ptr<Session> load(const Model& model, const SessionOptions& options) override {
    if (options.num_threads < 1 || options.num_threads > 1024) {
      throw Error(ErrorCode::invalid_argument,
                  "num_threads must be between 1 and 1024, not " + std::to_string(options.num_threads));
    }
    const fused::InstructionSet set = fused::choose_instruction_set();
    const fused::Arithmetic arithmetic = arithmetic_of(options.precision);
    const fused::WordKernels* words = words_for(arithmetic, set);
    const onnx::Graph graph = onnx::read_graph(model);
    try {
      fused::Program program = fused::in_order(fused::with_distances(fused::lower(graph)));
      if (words != nullptr) program = fused::with_layers_in_words(std::move(program), arithmetic);
      return std::make_unique<fused::FusedSession>(program, set.kernels(), words, options.num_threads);
    } catch (const Error& error) {
      throw Error(error.code(), std::string(model.name) + ": " + error.what());
    }
  }
};

}  // namespace

std::unique_ptr<Backend> make_fused_backend() { return std::make_unique<FusedBackend>(); }

}  // namespace datasentinel
