// The backends, the plan that chooses between them, and loading a model on them.

#include <pybind11/functional.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "backends/all.h"
#include "bindings/bindings.h"
#include "core/error.h"
#include "core/plan.h"
#include "core/registry.h"

namespace py = pybind11;

namespace datasentinel {
namespace {

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

IoBinding io_binding_of(const std::string& name) {
  if (name == "auto") return IoBinding::automatic;
  if (name == "off") return IoBinding::off;
  if (name == "on") return IoBinding::on;
  if (name == "cuda-graphs") return IoBinding::cuda_graphs;
  throw Error(ErrorCode::invalid_argument, "unknown io_binding '" + name + "'");
}

std::unique_ptr<LoadedScorer> load(Registry& registry, std::string_view onnx, const std::string& name,
                                   const std::string& backend, double threshold,
                                   std::vector<std::string> feature_names, int num_threads,
                                   const std::string& precision, std::vector<float> score_edges,
                                   std::vector<std::vector<float>> feature_edges, const std::string& sha256,
                                   std::size_t warm_up_rows, const EngineOptions* engine, const Plan* plan,
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
  loaded->session = session;
  loaded->row_us = time_of_one_row_us(*session);
  std::optional<IntervalCounts> histogram;
  if (!score_edges.empty()) histogram.emplace(std::move(score_edges));
  std::vector<IntervalCounts> features;
  features.reserve(feature_edges.size());
  for (std::vector<float>& edges : feature_edges) {
    features.emplace_back(std::move(edges), "column " + std::to_string(features.size()));
  }
  loaded->scorer = std::make_shared<Scorer>(std::move(session), threshold, std::move(feature_names),
                                            std::move(histogram), std::move(features), warm_up_rows);
  return loaded;
}

std::vector<BuiltEngine> build_for(Registry& registry, std::string_view onnx, const std::string& name,
                                   const std::string& backend, const std::string& precision,
                                   const std::string& sha256, const EngineOptions& engine,
                                   const std::vector<int>& architectures) {
  const py::gil_scoped_release release;
  const SessionOptions options{.num_threads = 1, .precision = precision, .engine = engine};
  return registry.find(backend).build_for(as_model(name, onnx, sha256), options, architectures);
}

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

/// A getter of `part` of a plan as tuples of `members`.
template <typename Struct, typename... Member>
auto tuples_of(std::vector<Struct> Plan::* part, Member Struct::*... members) {
  return [=](const Plan& plan) {
    std::vector<std::tuple<Member...>> tuples;
    for (const Struct& one : plan.*part) tuples.emplace_back(one.*members...);
    return tuples;
  };
}

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

}  // namespace

void bind_backends(py::module_& module) {
  py::class_<NamedStatus>(module, "BackendStatus")
      .def_readonly("name", &NamedStatus::name)
      .def_property_readonly("availability",
                             [](const NamedStatus& self) { return to_string(self.status.availability); })
      .def_property_readonly("detail", [](const NamedStatus& self) { return self.status.detail; })
      .def_property_readonly("version", [](const NamedStatus& self) { return self.status.version; })
      .def_property_readonly("library", [](const NamedStatus& self) { return self.status.library; });

  py::class_<Plan>(module, "Plan")
      .def(py::init(&plan_of), py::kw_only(), py::arg("steps"), py::arg("timings"), py::arg("refusals"))
      .def_property_readonly("steps", tuples_of(&Plan::steps, &PlanStep::min_rows, &PlanStep::backend))
      .def_property_readonly("timings", tuples_of(&Plan::timings, &PlanTiming::rows, &PlanTiming::backend,
                                                  &PlanTiming::latency_us))
      .def_property_readonly("refusals", tuples_of(&Plan::refusals, &Refusal::backend, &Refusal::reason));

  py::class_<EngineOptions>(module, "EngineOptions")
      .def(py::init([](int optimization_level, std::size_t workspace_mib, std::size_t max_rows,
                       bool hardware_compatible, bool version_compatible, const std::string& io_binding,
                       const std::string& cache_dir,
                       std::function<void(const std::string&, int, int)> progress) {
             return EngineOptions{.optimization_level = optimization_level,
                                  .workspace_mib = workspace_mib,
                                  .max_rows = max_rows,
                                  .hardware_compatible = hardware_compatible,
                                  .version_compatible = version_compatible,
                                  .io_binding = io_binding_of(io_binding),
                                  .cache_dir = cache_dir,
                                  .progress = std::move(progress)};
           }),
           py::kw_only(), py::arg("optimization_level"), py::arg("workspace_mib"), py::arg("max_rows"),
           py::arg("hardware_compatible"), py::arg("version_compatible"), py::arg("io_binding"),
           py::arg("cache_dir"), py::arg("progress") = nullptr);

  py::class_<BuiltEngine>(module, "BuiltEngine")
      .def_readonly("architecture", &BuiltEngine::architecture)
      .def_readonly("library", &BuiltEngine::library)
      .def_readonly("size_bytes", &BuiltEngine::bytes)
      .def_readonly("built", &BuiltEngine::built);

  py::class_<Registry>(module, "Registry")
      .def(py::init(&registry_with), py::arg("libraries"))
      .def("status", &statuses)
      .def("load", &load, py::arg("onnx"), py::kw_only(), py::arg("name"), py::arg("backend"),
           py::arg("threshold"), py::arg("feature_names"), py::arg("num_threads"), py::arg("precision"),
           py::arg("score_edges") = std::vector<float>(),
           py::arg("feature_edges") = std::vector<std::vector<float>>(), py::arg("sha256") = "",
           py::arg("warm_up_rows") = 0, py::arg("engine") = nullptr, py::arg("plan") = nullptr,
           py::arg("plan_budget_s") = 1.0)
      .def("build_for", &build_for, py::arg("onnx"), py::kw_only(), py::arg("name"), py::arg("backend"),
           py::arg("precision"), py::arg("sha256"), py::arg("engine"), py::arg("architectures"));
}

}  // namespace datasentinel
