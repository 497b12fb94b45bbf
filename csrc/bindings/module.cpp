// The Python face of the C++ core. Thin: it checks array layouts, releases the GIL around work, and turns
// error codes into the classes of datasentinel.errors.

#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "backends/all.h"
#include "backends/fused/lowering.h"
#include "backends/fused_cuda/nvrtc.h"
#include "backends/fused_cuda/source.h"
#include "backends/tensorrt/backend.h"
#include "core/cpu_features.h"
#include "core/error.h"
#include "core/model_table.h"
#include "core/p_value.h"
#include "core/plan.h"
#include "core/registry.h"
#include "core/scorer.h"
#include "onnx/graph.h"
#include "roof/roof.h"
#include "wire/grpc_session.h"
#include "wire/http_session.h"
#include "wire/line_session.h"
#include "wire/rest_inference.h"

namespace py = pybind11;

namespace datasentinel {
namespace {

// ------------------------------------------------------------------------------------------------ errors

const char* class_name(ErrorCode code) {
  switch (code) {
    case ErrorCode::invalid_argument: return "InvalidInputError";
    case ErrorCode::invalid_model: return "ArtifactError";
    case ErrorCode::unsupported_model: return "UnsupportedModelError";
    case ErrorCode::not_found: return "ModelNotFoundError";
    case ErrorCode::unavailable: return "BackendUnavailableError";
    case ErrorCode::out_of_memory: return "OutOfMemoryError";
    case ErrorCode::resource_exhausted: return "ResourceExhaustedError";
    case ErrorCode::backend_failure: return "BackendError";
  }
  return "DataSentinelError";
}

void raise_in_python(const Error& error) {
  const py::object type = py::module_::import("datasentinel.errors").attr(class_name(error.code()));
  const py::object instance = type(error.what());
  instance.attr("vendor_text") = error.vendor_text();
  PyErr_SetObject(type.ptr(), instance.ptr());
}

// ------------------------------------------------------------------------------------------------ arrays

/// Is this a float32 array? NumPy's built-in types are singletons, so comparing pointers settles the common
/// case; only others (a dtype that was unpickled, say) are compared by value.
bool is_float32_array(py::handle object) {
  static const py::handle float32 = py::dtype::of<float>().release();  // Lives as long as the process.
  if (!py::isinstance<py::array>(object)) return false;
  return py::reinterpret_borrow<py::array>(object).dtype().is(float32) ||
         py::isinstance<py::array_t<float>>(object);
}

bool is_contiguous(const py::array& array) { return (array.flags() & py::array::c_style) != 0; }

/// A float32, C-contiguous array of rank 1 (one row) or 2 as rows, or nothing for any other object. Borrowed.
std::optional<ConstRows> as_rows(py::handle object) {
  if (!is_float32_array(object)) return std::nullopt;
  const auto array = py::reinterpret_borrow<py::array>(object);
  const auto rank = array.ndim();
  if (!is_contiguous(array) || rank < 1 || rank > 2) return std::nullopt;
  return ConstRows{.data = static_cast<const float*>(array.data()),
                   .rows = rank == 2 ? static_cast<std::size_t>(array.shape(0)) : 1,
                   .columns = static_cast<std::size_t>(array.shape(rank - 1))};
}

/// The caller's `out`, checked, or a new array of `shape`.
py::array_t<float> output_array(const py::object& out, std::span<const py::ssize_t> shape) {
  if (out.is_none()) return py::array_t<float>(std::vector<py::ssize_t>(shape.begin(), shape.end()));
  if (is_float32_array(out)) {
    const auto array = py::reinterpret_borrow<py::array>(out);
    if (array.writeable() && is_contiguous(array) &&
        std::equal(shape.begin(), shape.end(), array.shape(), array.shape() + array.ndim())) {
      return py::reinterpret_borrow<py::array_t<float>>(out);
    }
  }
  std::string wanted;
  for (const auto size : shape) wanted += std::to_string(size) + ", ";
  throw Error(ErrorCode::invalid_argument,
              "out must be a writeable, C-contiguous float32 array of shape (" + wanted + ")");
}

Model as_model(const std::string& name, std::string_view onnx, std::string_view sha256 = {}) {
  return {.name = name, .onnx = std::as_bytes(std::span(onnx.data(), onnx.size())), .sha256 = sha256};
}

// ------------------------------------------------------------------------------------------------ scoring

/// Releases the GIL for a call worth it. Handing the GIL over and taking it back costs about as much as
/// scoring a row with a small model, and other threads wait no longer for such a call than for any bytecode.
class GilReleaseForLongWork {
 public:
  explicit GilReleaseForLongWork(double expected_us) {
    if (expected_us > kWorthReleasing) release_.emplace();
  }

 private:
  static constexpr double kWorthReleasing = 5.0;
  std::optional<py::gil_scoped_release> release_;
};

/// A scorer as Python sees it, with the plan it follows beside it (empty for a named backend).
struct LoadedScorer {
  std::shared_ptr<Scorer> scorer;
  Plan plan;
  double row_us = 0;  ///< Time of a call with one row, measured at load: an upper bound per row.

  [[nodiscard]] double expected_us(ConstRows rows) const { return row_us * static_cast<double>(rows.rows); }
};

/// The fastest of a few calls with a row of zeros, which also warms the session up.
double time_of_one_row_us(Session& session) {
  const std::vector<float> row(session.input_dim());
  float score = 0;
  double fastest = std::numeric_limits<double>::infinity();
  for (int i = 0; i < 5; ++i) {
    const auto start = std::chrono::steady_clock::now();
    session.run({.data = row.data(), .rows = 1, .columns = row.size()}, {.scores = &score});
    const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - start;
    fastest = std::min(fastest, took.count());
  }
  return fastest;
}

/// Loads on every backend that can, then follows `known`, or measures a plan where that is null.
std::shared_ptr<Session> load_auto(const Registry& registry, const Model& model,
                                   const SessionOptions& options, const Plan* known, double budget_s,
                                   Plan& plan) {
  std::vector<Refusal> refusals;
  std::vector<Candidate> candidates = load_candidates(registry, model, options, refusals);
  if (known == nullptr) {
    plan = measure_plan(candidates, budget_s);
    plan.refusals.insert(plan.refusals.begin(), refusals.begin(), refusals.end());
  } else {
    plan = *known;
    std::erase_if(candidates, [&](const Candidate& candidate) {
      return std::any_of(plan.refusals.begin(), plan.refusals.end(),
                         [&](const Refusal& refusal) { return refusal.backend == candidate.backend; });
    });
  }
  return make_planned_session(std::move(candidates), plan);
}

std::unique_ptr<LoadedScorer> load(Registry& registry, std::string_view onnx, const std::string& name,
                                   const std::string& backend, double threshold,
                                   std::vector<std::string> feature_names, int num_threads,
                                   const std::string& precision, std::vector<float> score_edges,
                                   const std::string& sha256, const EngineOptions* engine, const Plan* plan,
                                   double plan_budget_s) {
  const py::gil_scoped_release release;
  const SessionOptions options{.num_threads = num_threads,
                               .precision = precision,
                               .engine = engine == nullptr ? EngineOptions{} : *engine};
  const Model model = as_model(name, onnx, sha256);
  auto loaded = std::make_unique<LoadedScorer>();
  std::shared_ptr<Session> session =
      backend == "auto" ? load_auto(registry, model, options, plan, plan_budget_s, loaded->plan)
                        : registry.find(backend).load(model, options);
  loaded->row_us = time_of_one_row_us(*session);
  std::optional<ScoreHistogram> histogram;
  if (!score_edges.empty()) histogram.emplace(std::move(score_edges));
  loaded->scorer =
      std::make_shared<Scorer>(std::move(session), threshold, std::move(feature_names), std::move(histogram));
  return loaded;
}

/// NotImplemented asks the caller to convert `x` to contiguous float32 and to call again.
py::object score(const LoadedScorer& self, const py::object& x, const py::object& out) {
  const auto rows = as_rows(x);
  if (!rows) return py::reinterpret_borrow<py::object>(Py_NotImplemented);
  const std::array<py::ssize_t, 1> shape{static_cast<py::ssize_t>(rows->rows)};
  auto scores = output_array(out, shape);
  const Outputs outputs{.scores = scores.mutable_data(), .reconstructions = nullptr};
  {
    // Safe: `x` and `scores` are kept alive by references held here, and nothing below touches Python.
    const GilReleaseForLongWork release(self.expected_us(*rows));
    self.scorer->run(*rows, outputs);
  }
  return std::move(scores);
}

py::object predict(const LoadedScorer& self, const py::object& x) {
  const auto rows = as_rows(x);
  if (!rows) return py::reinterpret_borrow<py::object>(Py_NotImplemented);
  py::array_t<bool> decisions(static_cast<py::ssize_t>(rows->rows));
  bool* decision = decisions.mutable_data();
  {
    const GilReleaseForLongWork release(self.expected_us(*rows));  // Safe for the same reason as in score().
    std::vector<float> scores(rows->rows);
    self.scorer->run(*rows, {.scores = scores.data(), .reconstructions = nullptr});
    for (std::size_t i = 0; i < rows->rows; ++i) decision[i] = self.scorer->is_anomaly(scores[i]);
  }
  return std::move(decisions);
}

/// Computes the one output that has the shape of `x`.
template <float* Outputs::* kWanted>
py::object matrix(const LoadedScorer& self, const py::object& x, const py::object& out) {
  const auto rows = as_rows(x);
  if (!rows) return py::reinterpret_borrow<py::object>(Py_NotImplemented);
  const auto array = py::reinterpret_borrow<py::array>(x);
  auto result = output_array(out, {array.shape(), static_cast<std::size_t>(array.ndim())});
  Outputs outputs;
  outputs.*kWanted = result.mutable_data();
  {
    const GilReleaseForLongWork release(self.expected_us(*rows));  // Safe for the same reason as in score().
    self.scorer->run(*rows, outputs);
  }
  return std::move(result);
}

py::array_t<double> p_values(const PValueTable& self,
                             const py::array_t<float, py::array::c_style | py::array::forcecast>& scores) {
  py::array_t<double> result(scores.size());
  std::transform(scores.data(), scores.data() + scores.size(), result.mutable_data(),
                 [&](float score) { return self.p_value(score); });
  return result;
}

py::dict counts(const LoadedScorer& self) {
  const Scorer::Counts counts = self.scorer->counts();
  py::dict result;
  result["rows"] = counts.rows;
  result["anomalies"] = counts.anomalies;
  result["batches"] = counts.batches;
  return result;
}

py::dict histograms(const LoadedScorer& self) {
  py::dict result;
  const ScoringHistograms* all = self.scorer->histograms();
  if (all == nullptr) return result;
  const auto put = [&result](const char* name, const Histogram& histogram) {
    Histogram::Values values = histogram.values();
    result[name] = py::make_tuple(histogram.bounds(), std::move(values.counts), values.sum);
  };
  put("batch_rows", all->batch_rows);
  put("compute_s", all->compute_s);
  return result;
}

py::dict facts(const LoadedScorer& self) {
  py::dict result;
  for (const auto& [key, value] : self.scorer->session().facts()) result[py::str(key)] = value;
  return result;
}

// --------------------------------------------------------------------------------------------------- plan

using StepTuple = std::tuple<std::size_t, std::string>;
using TimingTuple = std::tuple<std::size_t, std::string, double>;
using RefusalTuple = std::tuple<std::string, std::string>;

Plan plan_of(const std::vector<StepTuple>& steps, const std::vector<TimingTuple>& timings,
             const std::vector<RefusalTuple>& refusals) {
  Plan plan;
  for (const auto& [min_rows, backend] : steps) plan.steps.push_back({min_rows, backend});
  for (const auto& [rows, backend, latency_us] : timings) plan.timings.push_back({rows, backend, latency_us});
  for (const auto& [backend, reason] : refusals) plan.refusals.push_back({backend, reason});
  return plan;
}

std::vector<StepTuple> steps_of(const Plan& plan) {
  std::vector<StepTuple> steps;
  for (const auto& step : plan.steps) steps.emplace_back(step.min_rows, step.backend);
  return steps;
}

std::vector<TimingTuple> timings_of(const Plan& plan) {
  std::vector<TimingTuple> timings;
  for (const auto& timing : plan.timings) {
    timings.emplace_back(timing.rows, timing.backend, timing.latency_us);
  }
  return timings;
}

std::vector<RefusalTuple> refusals_of(const Plan& plan) {
  std::vector<RefusalTuple> refusals;
  for (const auto& refusal : plan.refusals) refusals.emplace_back(refusal.backend, refusal.reason);
  return refusals;
}

// ----------------------------------------------------------------------------------------------- backends

/// A status with the name of the backend it belongs to.
struct NamedStatus {
  std::string name;
  BackendStatus status;
};

std::unique_ptr<Registry> registry_with(
    const std::map<std::string, std::pair<std::string, std::string>>& hints) {
  LibraryHints libraries;
  for (const auto& [backend, hint] : hints) libraries[backend] = {.path = hint.first, .problem = hint.second};
  return std::make_unique<Registry>(make_registry(libraries));
}

std::vector<NamedStatus> statuses(const Registry& registry) {
  const py::gil_scoped_release release;  // The first call opens vendor libraries.
  std::vector<NamedStatus> result;
  for (const auto& backend : registry.all()) {
    result.push_back({.name = std::string(backend->name()), .status = backend->status()});
  }
  return result;
}

// ------------------------------------------------------------------------------------------------- models

onnx::Graph inspect_model(std::string_view onnx, const std::string& name) {
  const py::gil_scoped_release release;
  return onnx::read_graph(as_model(name, onnx));
}

py::tuple shape_of(const onnx::ValueInfo& value) {
  py::tuple shape(value.dims.size());
  for (std::size_t i = 0; i < value.dims.size(); ++i) shape[i] = value.dims[i];
  return shape;
}

fused_cuda::Source cuda_source(std::string_view onnx, const std::string& name, std::size_t shared_bytes) {
  const py::gil_scoped_release release;
  return fused_cuda::generate(fused::lower(onnx::read_graph(as_model(name, onnx))), shared_bytes);
}

py::bytes compile_cuda(const std::string& source, int architecture, const std::string& library) {
  Bytes code;
  {
    const py::gil_scoped_release release;
    code = fused_cuda::Nvrtc(library).compile(source, architecture);
  }
  return {reinterpret_cast<const char*>(code.data()), code.size()};
}

py::dict as_dict(const fused_cuda::Kernel& kernel) {
  py::dict result;
  result["name"] = kernel.name;
  result["rows"] = kernel.rows;
  result["threads"] = kernel.threads;
  result["shared_bytes"] = kernel.shared_bytes;
  return result;
}

// --------------------------------------------------------------------------------------------------- roof

double measure_gflops(const std::string& isa, double seconds) {
  const py::gil_scoped_release release;
  return roof::measure_gflops(isa, seconds);
}

std::vector<roof::Roof> measure_roof(double seconds) {
  const py::gil_scoped_release release;
  return roof::measure_all(seconds);
}

// --------------------------------------------------------------------------------------------------- wire

/// Name and version of the model that requests for `name` and `version` go to, or nothing.
std::optional<std::pair<std::string, std::string>> find_model(const ModelTable& self, std::string_view name,
                                                              std::string_view version) {
  const auto model = self.find(name, version);
  if (model == nullptr) return std::nullopt;
  return std::pair(model->name, model->version);
}

/// What became of the requests to a served model, or nothing.
std::optional<py::dict> statistics_of(const ModelTable& self, std::string_view name,
                                      std::string_view version) {
  const auto model = self.find(name, version);
  if (model == nullptr) return std::nullopt;
  const RequestStatistics::Values values = model->statistics.values();
  py::dict result;
  result["successes"] = values.successes;
  result["success_ns"] = values.success_ns;
  result["failures"] = values.failures;
  result["failure_ns"] = values.failure_ns;
  result["last_ms"] = values.last_ms;
  return result;
}

/// A request that was answered in Python.
void count_request(const ModelTable& self, std::string_view name, std::string_view version, bool success,
                   std::int64_t took_ns) {
  if (const auto model = self.find(name, version)) {
    model->statistics.add(success, std::chrono::nanoseconds(took_ns));
  }
}

/// Status, body, and how many bytes of the body are JSON where tensors' bytes follow.
std::tuple<int, py::bytes, std::optional<std::size_t>> answer(RestInference& self, std::string_view name,
                                                              std::string_view version, std::string_view body,
                                                              std::optional<std::size_t> json_bytes) {
  const RestReply* reply = nullptr;
  {
    const py::gil_scoped_release release;  // Safe for the same reason as in feed().
    reply =
        &self.answer({.model_name = name, .model_version = version, .body = body, .json_bytes = json_bytes});
  }
  return {reply->status, py::bytes(reply->body), reply->json_bytes};
}

std::unique_ptr<HttpSession> http_session(std::shared_ptr<RestInference> inference,
                                          std::size_t max_header_bytes, std::size_t max_body_bytes,
                                          std::string server, const std::optional<py::function>& authorize) {
  Authorize ask;
  if (authorize) {
    ask = [function = *authorize](std::optional<std::string_view> header) {
      const py::gil_scoped_acquire acquire;
      return (header ? function(py::bytes(*header)) : function(py::none())).cast<bool>();
    };
  }
  return std::make_unique<HttpSession>(
      std::move(inference),
      HttpLimits{.max_header_bytes = max_header_bytes, .max_body_bytes = max_body_bytes}, std::move(server),
      std::move(ask));
}

py::bytes feed_http(HttpSession& session, std::string_view data) {
  std::string replies;
  {
    const py::gil_scoped_release release;  // Safe for the same reason as in feed().
    session.feed(data, replies);
  }
  return replies;
}

py::bytes feed(LineSession& session, std::string_view data) {
  std::string replies;
  {
    // Safe: `data` views an immutable bytes object that the caller's argument keeps alive.
    const py::gil_scoped_release release;
    session.feed(data, replies);
  }
  return replies;
}

py::bytes finish(LineSession& session) {
  std::string replies;
  {
    const py::gil_scoped_release release;
    session.finish(replies);
  }
  return replies;
}

/// Wakes up an event loop that watches an eventfd, or the other end of a pipe.
std::function<void()> wake_up(int descriptor) {
  return [descriptor] {
    constexpr std::uint64_t one = 1;
    // It fails only when the loop has been woken so often that it has more to read than fits.
    [[maybe_unused]] const auto written = ::write(descriptor, &one, sizeof(one));
  };
}

/// Asks a Python function; none admits everybody.
GrpcService::Admit admission(const py::object& admit) {
  if (admit.is_none()) return nullptr;
  return [admit](std::string_view path, std::string_view authorization) {
    const py::gil_scoped_acquire acquire;
    return admit(py::bytes(path), py::bytes(authorization)).cast<bool>();
  };
}

std::shared_ptr<GrpcService> make_grpc_service(std::shared_ptr<ModelTable> models, const GrpcLimits& limits,
                                               std::size_t queue_rows, std::int64_t max_queue_delay_us,
                                               std::size_t queue_threads,
                                               std::vector<double> latency_bounds_s, int wake_descriptor,
                                               const py::object& admit) {
  const QueueLimits queue_limits{.max_rows = queue_rows,
                                 .max_delay = std::chrono::microseconds(max_queue_delay_us),
                                 .threads = queue_threads};
  return std::make_shared<GrpcService>(std::move(models), limits, queue_limits, std::move(latency_bounds_s),
                                       wake_up(wake_descriptor), admission(admit));
}

py::dict take_counts(GrpcService& self) {
  const RequestCounts::Values values = self.counts().take();
  py::dict result;
  result["requests"] = values.requests;
  result["rows"] = values.rows;
  result["anomalies"] = values.anomalies;
  result["errors"] = values.errors;
  result["latency_counts"] = values.latency_counts;
  result["latency_sum_s"] = values.latency_sum_s;
  return result;
}

/// Chunks above this may hold enough work to let other threads run meanwhile.
constexpr std::size_t kWorthReleasingBytes = 8192;

py::bytes feed_grpc(GrpcSession& session, std::string_view data) {
  std::string out;
  {
    std::optional<py::gil_scoped_release> release;  // Safe for the same reason as in feed().
    if (data.size() > kWorthReleasingBytes) release.emplace();
    session.feed(data, out);
  }
  return out;
}

py::bytes take_grpc_output(GrpcSession& session) {
  std::string out;
  session.take_output(out);
  return out;
}

/// What Python asks after every chunk, in one call: 1 for something to attend to, 2 for the middle of a
/// message, 4 for closed.
unsigned grpc_state(const GrpcSession& session) {
  return (session.needs_attention() ? 1U : 0U) | (session.mid_message() ? 2U : 0U) |
         (session.closed() ? 4U : 0U);
}

const char* to_string(GrpcEvent::Kind kind) {
  switch (kind) {
    case GrpcEvent::Kind::call: return "call";
    case GrpcEvent::Kind::message: return "message";
    case GrpcEvent::Kind::end: return "end";
    case GrpcEvent::Kind::cancel: return "cancel";
    case GrpcEvent::Kind::inflate: return "inflate";
    case GrpcEvent::Kind::failure: return "failure";
  }
  return "";
}

py::list take_grpc_events(GrpcSession& session) {
  py::list result;
  for (const GrpcEvent& event : session.take_events()) {
    py::list metadata;
    for (const auto& [key, value] : event.metadata)
      metadata.append(py::make_tuple(py::bytes(key), py::bytes(value)));
    result.append(py::make_tuple(to_string(event.kind), event.call, py::bytes(event.text), event.compressed,
                                 std::move(metadata)));
  }
  return result;
}

}  // namespace
}  // namespace datasentinel

PYBIND11_MODULE(_native, module) {
  using namespace datasentinel;

  module.doc() = "The C++ core of datasentinel. Only datasentinel.backend imports it.";
  module.attr("__version__") = DATASENTINEL_VERSION;
  module.def("build_info", [] {
    py::dict info;
    info["version"] = DATASENTINEL_VERSION;
    info["compiler"] = DATASENTINEL_COMPILER;
    info["build type"] = DATASENTINEL_BUILD_TYPE;
    info["TensorRT headers"] = tensorrt_headers();
    info["pybind11"] =
        PYBIND11_TOSTRING(PYBIND11_VERSION_MAJOR) "." PYBIND11_TOSTRING(PYBIND11_VERSION_MINOR);
    return info;
  });
  module.def("cpu_features", &cpu_features);

  py::register_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const Error& error) {
      raise_in_python(error);
    }
  });

  py::class_<NamedStatus>(module, "BackendStatus")
      .def_readonly("name", &NamedStatus::name)
      .def_property_readonly("availability",
                             [](const NamedStatus& self) { return to_string(self.status.availability); })
      .def_property_readonly("detail", [](const NamedStatus& self) { return self.status.detail; })
      .def_property_readonly("version", [](const NamedStatus& self) { return self.status.version; })
      .def_property_readonly("library", [](const NamedStatus& self) { return self.status.library; });

  py::class_<onnx::ValueInfo>(module, "TensorInfo")
      .def_readonly("name", &onnx::ValueInfo::name)
      .def_property_readonly("dtype", [](const onnx::ValueInfo& self) { return onnx::to_string(self.type); })
      .def_property_readonly("shape", &shape_of);
  py::class_<onnx::Graph>(module, "ModelInfo")
      .def_readonly("opset", &onnx::Graph::opset)
      .def_property_readonly("operators", &onnx::Graph::operators)
      .def_readonly("inputs", &onnx::Graph::inputs)
      .def_readonly("outputs", &onnx::Graph::outputs);
  module.def("inspect_model", &inspect_model, py::arg("onnx"), py::kw_only(), py::arg("name"));

  py::class_<fused_cuda::Source>(module, "CudaSource")
      .def_readonly("text", &fused_cuda::Source::text)
      .def_readonly("in_registers", &fused_cuda::Source::in_registers)
      .def_property_readonly("constants",
                             [](const fused_cuda::Source& self) {
                               return py::array_t<float>(static_cast<py::ssize_t>(self.constants.size()),
                                                         self.constants.data());
                             })
      .def_property_readonly("few", [](const fused_cuda::Source& self) { return as_dict(self.few); })
      .def_property_readonly("bulk", [](const fused_cuda::Source& self) { return as_dict(self.bulk); });
  module.def("cuda_source", &cuda_source, py::arg("onnx"), py::kw_only(), py::arg("name"),
             py::arg("shared_bytes"));
  module.def("compile_cuda", &compile_cuda, py::arg("source"), py::kw_only(), py::arg("architecture"),
             py::arg("library"));

  py::class_<Plan>(module, "Plan")
      .def(py::init(&plan_of), py::kw_only(), py::arg("steps"), py::arg("timings"), py::arg("refusals"))
      .def_property_readonly("steps", &steps_of)
      .def_property_readonly("timings", &timings_of)
      .def_property_readonly("refusals", &refusals_of);

  py::class_<EngineOptions>(module, "EngineOptions")
      .def(py::init([](int optimization_level, std::size_t workspace_mib, std::size_t max_rows,
                       bool hardware_compatible, bool version_compatible, const std::string& cache_dir,
                       std::function<void(const std::string&, int, int)> progress) {
             return EngineOptions{.optimization_level = optimization_level,
                                  .workspace_mib = workspace_mib,
                                  .max_rows = max_rows,
                                  .hardware_compatible = hardware_compatible,
                                  .version_compatible = version_compatible,
                                  .cache_dir = cache_dir,
                                  .progress = std::move(progress)};
           }),
           py::kw_only(), py::arg("optimization_level"), py::arg("workspace_mib"), py::arg("max_rows"),
           py::arg("hardware_compatible"), py::arg("version_compatible"), py::arg("cache_dir"),
           py::arg("progress") = nullptr);

  py::class_<Registry>(module, "Registry")
      .def(py::init(&registry_with), py::arg("libraries"))
      .def("status", &statuses)
      .def("load", &load, py::arg("onnx"), py::kw_only(), py::arg("name"), py::arg("backend"),
           py::arg("threshold"), py::arg("feature_names"), py::arg("num_threads"), py::arg("precision"),
           py::arg("score_edges") = std::vector<float>(), py::arg("sha256") = "", py::arg("engine") = nullptr,
           py::arg("plan") = nullptr, py::arg("plan_budget_s") = 1.0);

  py::class_<LoadedScorer>(module, "Scorer")
      .def_property_readonly("input_dim", [](const LoadedScorer& self) { return self.scorer->input_dim(); })
      .def_property_readonly("threshold", [](const LoadedScorer& self) { return self.scorer->threshold(); })
      .def_property_readonly("backend",
                             [](const LoadedScorer& self) { return self.scorer->session().backend(); })
      .def_property_readonly("facts", &facts)
      .def_readonly("plan", &LoadedScorer::plan)
      .def_property_readonly("counts", &counts)
      .def_property_readonly("score_counts",
                             [](const LoadedScorer& self) { return self.scorer->score_counts(); })
      .def("observe", [](const LoadedScorer& self) { self.scorer->observe(); })
      .def_property_readonly("histograms", &histograms)
      .def("score", &score, py::arg("x"), py::arg("out") = py::none())
      .def("predict", &predict, py::arg("x"))
      .def("reconstruct", &matrix<&Outputs::reconstructions>, py::arg("x"), py::arg("out") = py::none())
      .def("contributions", &matrix<&Outputs::contributions>, py::arg("x"), py::arg("out") = py::none());

  py::class_<roof::Roof>(module, "Roof")
      .def_readonly("isa", &roof::Roof::isa)
      .def_readonly("gflops", &roof::Roof::gflops)
      .def_readonly("l1_gb_s", &roof::Roof::l1_gb_s)
      .def_readonly("l2_gb_s", &roof::Roof::l2_gb_s)
      .def_readonly("memory_gb_s", &roof::Roof::memory_gb_s);
  module.def("measure_roof", &measure_roof, py::arg("seconds"));
  module.def("measure_gflops", &measure_gflops, py::arg("isa"), py::arg("seconds"));

  py::class_<PValueTable>(module, "PValueTable")
      .def(py::init<std::vector<float>, std::vector<std::uint64_t>, std::uint64_t>(), py::kw_only(),
           py::arg("scores"), py::arg("greater"), py::arg("rows"))
      .def("p_values", &p_values, py::arg("scores"));

  py::class_<ModelTable, std::shared_ptr<ModelTable>>(module, "ModelTable")
      .def(py::init<>())
      .def(
          "put",
          [](ModelTable& self, std::string name, std::string version, const LoadedScorer& scorer) {
            self.put(std::move(name), std::move(version), scorer.scorer);
          },
          py::arg("name"), py::arg("version"), py::arg("scorer"))
      .def("remove", &ModelTable::remove, py::arg("name"), py::arg("version"))
      .def("set_default", &ModelTable::set_default, py::arg("name"))
      .def("find", &find_model, py::arg("name") = "", py::arg("version") = "")
      .def("statistics", &statistics_of, py::arg("name"), py::arg("version"))
      .def("count_request", &count_request, py::arg("name"), py::arg("version"), py::kw_only(),
           py::arg("success"), py::arg("took_ns"))
      .def_property_readonly("generation", &ModelTable::generation);

  py::class_<RestInference, std::shared_ptr<RestInference>>(module, "RestInference")
      .def(py::init([](std::shared_ptr<ModelTable> models, std::size_t max_rows) {
             return std::make_shared<RestInference>(std::move(models), max_rows);
           }),
           py::arg("models"), py::kw_only(), py::arg("max_rows"))
      .def("answer", &answer, py::arg("name"), py::arg("version"), py::arg("body"), py::arg("json_bytes"))
      .def("take_counts", [](RestInference& self) {
        const RestInference::Counts counts = self.take_counts();
        return std::tuple(counts.requests, counts.rows, counts.anomalies, counts.errors);
      });

  py::class_<HttpSession>(module, "HttpSession")
      .def(py::init(&http_session), py::arg("inference"), py::kw_only(), py::arg("max_header_bytes"),
           py::arg("max_body_bytes"), py::arg("server"), py::arg("authorize") = py::none())
      .def("feed", &feed_http, py::arg("data"))
      .def("finish", &HttpSession::finish)
      .def("take_declined", [](HttpSession& self) { return py::bytes(self.take_declined()); })
      .def_property_readonly("declined", &HttpSession::declined)
      .def_property_readonly("mid_message", &HttpSession::mid_message);

  py::class_<LineSession>(module, "LineSession")
      .def(py::init([](std::shared_ptr<ModelTable> models, std::size_t max_line_bytes) {
             return std::make_unique<LineSession>(std::move(models),
                                                  LineLimits{.max_line_bytes = max_line_bytes});
           }),
           py::arg("models"), py::kw_only(), py::arg("max_line_bytes"))
      .def("feed", &feed, py::arg("data"))
      .def("finish", &finish)
      .def_property_readonly("closed", &LineSession::closed)
      .def_property_readonly("lines", &LineSession::lines)
      .def_property_readonly("errors", &LineSession::errors)
      .def_property_readonly("failures", &LineSession::failures)
      .def_property_readonly("last_failure", &LineSession::last_failure);

  module.def("grpc_library", &grpc_library);
  py::class_<GrpcService, std::shared_ptr<GrpcService>>(module, "GrpcService")
      .def(py::init([](std::shared_ptr<ModelTable> models, std::size_t max_message_bytes,
                       std::size_t max_request_rows, std::uint32_t max_streams, double max_inline_us,
                       std::size_t queue_rows, std::int64_t max_queue_delay_us, std::size_t queue_threads,
                       std::vector<double> latency_bounds_s, int wake_descriptor, const py::object& admit) {
             const GrpcLimits limits{.max_message_bytes = max_message_bytes,
                                     .max_rows = max_request_rows,
                                     .max_streams = max_streams,
                                     .max_inline_us = max_inline_us};
             return make_grpc_service(std::move(models), limits, queue_rows, max_queue_delay_us,
                                      queue_threads, std::move(latency_bounds_s), wake_descriptor, admit);
           }),
           py::arg("models"), py::kw_only(), py::arg("max_message_bytes"), py::arg("max_request_rows"),
           py::arg("max_streams"), py::arg("max_inline_us"), py::arg("queue_rows"),
           py::arg("max_queue_delay_us"), py::arg("queue_threads"), py::arg("latency_bounds_s"),
           py::arg("wake_descriptor"), py::arg("admit") = py::none())
      .def("open_session", &make_grpc_session)
      .def("collect", &GrpcService::collect)
      .def("take_counts", &take_counts)
      .def_property_readonly("queue_depth_rows", [](GrpcService& self) { return self.queue().depth_rows(); });
  py::class_<GrpcSession>(module, "GrpcSession")
      .def("feed", &feed_grpc, py::arg("data"))
      .def("take_output", &take_grpc_output)
      .def("take_events", &take_grpc_events)
      .def("reply", &GrpcSession::reply, py::arg("call"), py::arg("message"))
      .def("finish_call", &GrpcSession::finish_call, py::arg("call"), py::arg("status"), py::arg("message"))
      .def("deliver", &GrpcSession::deliver, py::arg("call"), py::arg("message"))
      .def("expire", &GrpcSession::expire)
      .def("next_deadline_s", &GrpcSession::next_deadline_s)
      .def("drain", &GrpcSession::drain)
      .def_property_readonly("open_calls", &GrpcSession::open_calls)
      .def_property_readonly("number", &GrpcSession::number)
      .def_property_readonly("state", &grpc_state);
}
