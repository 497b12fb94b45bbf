#include "backends/onnxruntime/session.h"

#include <algorithm>
#include <array>
#include <shared_mutex>
#include <utility>

#include "core/error.h"

namespace datasentinel::onnxruntime {

OnnxRuntimeSession::OnnxRuntimeSession(std::shared_ptr<Runtime> runtime, const Model& model,
                                       const SessionOptions& options, Provider provider)
    : runtime_(std::move(runtime)),
      provider_(provider),
      session_(runtime_->api),
      num_threads_(options.num_threads),
      lanes_([] { return std::make_unique<Lane>(); }) {
  if (options.precision != "float32") {
    throw Error(ErrorCode::unsupported_model,
                "'" + std::string(model.name) +
                    "': the onnxruntime backend computes in the precision of the graph; precision '" +
                    options.precision + "' is not available");
  }
  if (options.engine.io_binding != IoBinding::cuda_graphs) {
    open(model, options, Callers::concurrent);
    return;
  }
  try {
    open(model, options, Callers::one_after_the_other);
    cuda_graphs_ = provider_ == Provider::cuda
                       ? "one for each batch size"
                       : std::string("no: ") + to_string(provider_) + " captures none";
  } catch (const Error& error) {
    if (provider_ != Provider::cuda) throw;
    // Not every model can be captured, and whether a session captures is settled when it is made.
    close();
    open(model, options, Callers::concurrent);
    cuda_graphs_ = std::string("no: ") + error.what();
  }
}

OnnxRuntimeSession::~OnnxRuntimeSession() { close(); }

void OnnxRuntimeSession::close() noexcept {
  const auto gate = runtime_->gate.work();
  bound_.reset();
  session_.reset();
}

void OnnxRuntimeSession::open(const Model& model, const SessionOptions& options, Callers callers) {
  const Api& api = runtime_->api;
  const std::string name(model.name);
  const std::string what = "loading '" + name + "'";
  {
    const auto gate = runtime_->gate.work();
    SessionOptionsHandle session_options(api);
    api.check(api.CreateSessionOptions(session_options.out()), what);
    api.check(api.SetSessionGraphOptimizationLevel(session_options.get(), kGraphOptimizationAll), what);
    api.check(api.SetIntraOpNumThreads(session_options.get(), num_threads_), what);
    api.check(api.SetInterOpNumThreads(session_options.get(), 1), what);
    // A spinning pool burns a core that the server's event loop needs.
    api.check(api.AddSessionConfigEntry(session_options.get(), "session.intra_op.allow_spinning", "0"), what);
    api.check(api.AddSessionConfigEntry(session_options.get(), "session.inter_op.allow_spinning", "0"), what);
    if (provider_ != Provider::cpu) {
      // Without this, nodes that the provider does not take would run on the CPU, silently.
      api.check(api.AddSessionConfigEntry(session_options.get(), "session.disable_cpu_ep_fallback", "1"),
                what);
      const bool cuda_graphs = provider_ == Provider::cuda && callers == Callers::one_after_the_other;
      runtime_->add(provider_, session_options.get(), cuda_graphs);
    }
    api.check(api.CreateSessionFromArray(runtime_->env.get(), model.onnx.data(), model.onnx.size(),
                                         session_options.get(), session_.out()),
              what);
    signature_ = read_signature(api, session_.get(), name);
  }
  open_bound(options.engine, callers);
}

void OnnxRuntimeSession::open_bound(const EngineOptions& options, Callers callers) {
  const IoBinding wanted = options.io_binding;
  if (signature_.state_dim != 0) {
    if (wanted == IoBinding::automatic || wanted == IoBinding::off) return;
    throw Error(ErrorCode::unsupported_model, "IO binding of a model with memory is not supported");
  }
  if (wanted == IoBinding::off || (wanted == IoBinding::automatic && provider_ == Provider::cpu)) return;
  try {
    const auto gate = runtime_->gate.work();
    bound_ = std::make_unique<BoundModel>(runtime_, session_.get(), signature_, provider_, options.max_rows,
                                          callers);
  } catch (const Error& error) {
    if (wanted != IoBinding::automatic) throw;
    io_binding_ = std::string("no: ") + error.what();
    return;
  }
  bound_->prepare();
  io_binding_ = "batches of powers of two, up to " + std::to_string(bound_->max_rows()) + " rows";
}

void OnnxRuntimeSession::hold(CallersTensor& tensor, const float* data, Shape shape) const {
  if (tensor.value.get() != nullptr && tensor.data == data && tensor.rows == shape.rows) return;
  tensor.value = make_tensor(runtime_->api, runtime_->cpu.get(), data, shape);
  tensor.data = data;
  tensor.rows = shape.rows;
}

void OnnxRuntimeSession::run_unbound(Lane& lane, ConstRows rows, States states,
                                     const Outputs& outputs) const {
  const Needs needs = needs_of(signature_, outputs);
  const Shape matrix{.rows = rows.rows, .columns = signature_.input_dim};
  float* reconstructions = outputs.reconstructions;
  if (needs.reconstruction && reconstructions == nullptr) {
    if (lane.reconstruction_scratch.size() < rows.size()) lane.reconstruction_scratch.resize(rows.size());
    reconstructions = lane.reconstruction_scratch.data();
  }

  std::array<const char*, 4> names{};
  std::array<OrtValue*, 4> values{};
  std::size_t count = 0;
  const auto ask_for = [&](const std::string& name, CallersTensor& tensor, float* data, Shape shape) {
    hold(tensor, data, shape);
    names[count] = name.c_str();
    values[count++] = tensor.value.get();
  };
  if (needs.score) {
    ask_for(signature_.score, lane.scores, outputs.scores,
            {.rows = rows.rows, .rank = signature_.score_rank});
  }
  if (needs.reconstruction) {
    ask_for(signature_.reconstruction, lane.reconstructions, reconstructions, matrix);
  }
  if (needs.contributions) {
    ask_for(signature_.contributions, lane.contributions, outputs.contributions, matrix);
  }
  hold(lane.input, rows.data, matrix);
  std::array<const char*, 2> input_names{signature_.input.c_str(), signature_.state.c_str()};
  std::array<const OrtValue*, 2> inputs{lane.input.value.get(), nullptr};
  std::size_t input_count = 1;
  const Shape state_matrix{.rows = rows.rows, .columns = signature_.state_dim};
  if (signature_.state_dim != 0) {
    const std::size_t size = rows.rows * signature_.state_dim;
    if (states.before == nullptr) {
      if (lane.state_scratch.size() < size) lane.state_scratch.resize(size);
      states.before = lane.state_scratch.data();
    }
    hold(lane.state, states.before, state_matrix);
    inputs[input_count++] = lane.state.value.get();
    if (states.after != nullptr) {
      if (lane.state_next_scratch.size() < size) lane.state_next_scratch.resize(size);
      ask_for(signature_.state_next, lane.state_next, lane.state_next_scratch.data(), state_matrix);
    }
  }

  const Api& api = runtime_->api;
  api.check(api.Run(session_.get(), nullptr, input_names.data(), inputs.data(), input_count, names.data(),
                    count, values.data()),
            "running the model");
  if (states.after != nullptr) {
    std::copy_n(lane.state_next_scratch.data(), rows.rows * signature_.state_dim, states.after);
  }
  if (needs.score_by_us) mean_squared_error(rows, reconstructions, outputs.scores);
  if (needs.contributions_by_us) squared_error_contributions(rows, reconstructions, outputs.contributions);
}

void OnnxRuntimeSession::step(ConstRows rows, States states, Outputs outputs) {
  if (bound_ != nullptr) {
    bound_->run(rows, outputs);
    return;
  }
  std::shared_lock<std::shared_mutex> gate;
  if (provider_ != Provider::cpu) gate = runtime_->gate.work();
  const auto lane = lanes_.borrow();
  if (!signature_.one_row_at_a_time) {
    run_unbound(*lane, rows, states, outputs);
    return;
  }
  for (std::size_t i = 0; i < rows.rows; ++i) {
    const std::size_t at = i * signature_.state_dim;
    const States state{.before = states.before == nullptr ? nullptr : states.before + at,
                       .after = states.after == nullptr ? nullptr : states.after + at};
    run_unbound(*lane, {.data = rows.row(i), .rows = 1, .columns = rows.columns}, state,
                outputs.from_row(i, rows.columns));
  }
}

Facts OnnxRuntimeSession::facts() const {
  return {{"onnxruntime", runtime_->api.version()},
          {"library", runtime_->api.library_path()},
          {"execution provider", to_string(provider_)},
          {"threads", std::to_string(num_threads_)},
          {"io binding", io_binding_},
          {"cuda graphs", cuda_graphs_},
          {"score", signature_.score.empty() ? "mean squared error, by the core" : "in the graph"}};
}

}  // namespace datasentinel::onnxruntime
