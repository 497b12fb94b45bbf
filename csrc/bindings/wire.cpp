// The wire protocols' sessions and the models that they serve.

#include <fcntl.h>
#include <pybind11/functional.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "serving/inference_service.h"
#include "serving/model_table.h"
#include "serving/request_counts.h"
#include "wire/grpc/grpc_session.h"
#include "wire/grpc/nghttp2_api.h"
#include "wire/http/http_session.h"
#include "wire/lines/line_session.h"
#include "wire/session.h"

namespace py = pybind11;

namespace datasentinel {
namespace {

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
  const RequestStatistics::Values values = model->statistics->values();
  py::dict result;
  result["successes"] = values.successes;
  result["success_ns"] = values.success_ns;
  result["queue_ns"] = values.queue_ns;
  result["failures"] = values.failures;
  result["failure_ns"] = values.failure_ns;
  result["last_ms"] = values.last_ms;
  return result;
}

Authorize authorization(const py::object& authorize) {
  if (authorize.is_none()) return nullptr;
  return [authorize](std::optional<std::string_view> header) {
    const py::gil_scoped_acquire acquire;
    return (header ? authorize(py::bytes(*header)) : authorize(py::none())).cast<bool>();
  };
}

/// Chunks above this may hold enough work to let other threads run meanwhile.
constexpr std::size_t kWorthReleasingBytes = 8192;

/// What is to be sent, and the state after a turn, in one call: with small chunks, calls are what a turn
/// costs.
py::tuple turn(const WireSession& session, const std::string& out) {
  return py::make_tuple(py::bytes(out), session.state());
}

py::tuple feed(WireSession& session, std::string_view data) {
  std::string out;
  {
    // Safe: `data` views an immutable bytes object that the caller's argument keeps alive.
    std::optional<py::gil_scoped_release> release;
    if (data.size() > kWorthReleasingBytes || session.unfinished()) release.emplace();
    session.feed(data, out);
  }
  return turn(session, out);
}

py::tuple finish(WireSession& session) {
  std::string out;
  session.finish(out);
  return turn(session, out);
}

py::tuple take_grpc_output(GrpcSession& session) {
  std::string out;
  session.take_output(out);
  return turn(session, out);
}

/// Whether its body is to be delivered, method, target, fields by lower-case name, body.
py::tuple take_http_event(HttpSession& session) {
  const HttpEvent event = session.take_event();
  py::dict fields;
  for (const auto& [name, value] : event.fields) {
    if (fields.contains(name)) continue;  // The first one counts, as where the session itself looks.
    fields[py::str(name)] = py::reinterpret_steal<py::str>(
        PyUnicode_DecodeLatin1(value.data(), static_cast<py::ssize_t>(value.size()), nullptr));
  }
  return py::make_tuple(event.is_inference, event.method, event.target, std::move(fields),
                        py::bytes(event.body));
}

/// Wakes up an event loop that watches an eventfd. It keeps a descriptor of its own, so that it never writes
/// to a file that was opened under the number since.
std::function<void()> wake_up(int descriptor) {
  const auto close = [](const int* own) {
    ::close(*own);
    delete own;
  };
  const std::shared_ptr<const int> own(new int(::fcntl(descriptor, F_DUPFD_CLOEXEC, 0)), close);
  if (*own < 0) throw Error(ErrorCode::resource_exhausted, "no file descriptor is left to wake the loop by");
  return [own] {
    constexpr std::uint64_t one = 1;
    // It fails only when the loop has been woken so often that it has more to read than fits.
    [[maybe_unused]] const auto written = ::write(*own, &one, sizeof(one));
  };
}

/// Asks a Python function, which returns the code and message of a refusal, or None; without a function
/// everybody is admitted.
GrpcService::Admit admission(const py::object& admit) {
  if (admit.is_none()) return nullptr;
  return [admit](std::string_view path, std::string_view authorization) -> GrpcStatus {
    const py::gil_scoped_acquire acquire;
    const py::object refusal = admit(py::bytes(path), py::bytes(authorization));
    if (refusal.is_none()) return {};
    auto [code, words] = refusal.cast<std::pair<int, std::string>>();
    return {static_cast<GrpcCode>(code), std::move(words)};
  };
}

/// pybind11's holders take objects that are not const.
struct Nghttp2 {
  std::shared_ptr<const nghttp2::Api> api;
};

std::shared_ptr<InferenceService> make_inference_service(std::shared_ptr<ModelTable> models,
                                                         double max_inline_us, std::size_t memory_bytes,
                                                         std::size_t queue_rows,
                                                         std::int64_t max_queue_delay_us,
                                                         std::size_t queue_threads, int wake_descriptor) {
  const QueueLimits queue_limits{.max_rows = queue_rows,
                                 .max_delay = std::chrono::microseconds(max_queue_delay_us),
                                 .threads = queue_threads};
  return std::make_shared<InferenceService>(
      std::move(models), ServiceLimits{.max_inline_us = max_inline_us, .max_memory_bytes = memory_bytes},
      queue_limits, wake_up(wake_descriptor));
}

py::dict take_counts(RequestCounts& self) {
  const RequestCounts::Values values = self.take();
  py::dict result;
  result["requests"] = values.requests;
  result["rows"] = values.rows;
  result["anomalies"] = values.anomalies;
  result["errors"] = values.errors;
  result["latency_counts"] = values.latency_counts;
  result["latency_sum_s"] = values.latency_sum_s;
  py::list traced;
  for (const RequestCounts::Answered& answered : values.traced) {
    traced.append(py::make_tuple(answered.requests, answered.rows, answered.anomalies, answered.errors,
                                 answered.code, answered.latency_s, answered.ended_ns));
  }
  result["traced"] = std::move(traced);
  return result;
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

void bind_wire(py::module_& module) {
  py::class_<Shadow, std::shared_ptr<Shadow>>(module, "Shadow")
      .def(py::init([](const LoadedScorer& scorer, std::shared_ptr<StateStore> states, StreamRules rules,
                       std::shared_ptr<WallClock> clock) {
             return std::make_shared<Shadow>(scorer.scorer, std::move(states), std::move(rules),
                                             std::move(clock));
           }),
           py::arg("scorer"), py::arg("states").none(false), py::arg("rules"), py::arg("clock") = py::none())
      .def_property_readonly("failure", &Shadow::failure);
  py::class_<ModelTable, std::shared_ptr<ModelTable>>(module, "ModelTable")
      .def(py::init<>())
      .def(
          "put",
          [](ModelTable& self, std::string name, std::string version, const LoadedScorer& scorer,
             bool reconstructs, std::shared_ptr<PValueTable> p_values, std::shared_ptr<StateStore> states,
             StreamRules rules, std::shared_ptr<WallClock> clock, std::shared_ptr<Shadow> shadow) {
            self.put(std::move(name), std::move(version), scorer.scorer,
                     {.reconstructs = reconstructs,
                      .p_values = std::move(p_values),
                      .states = std::move(states),
                      .rules = std::move(rules),
                      .clock = std::move(clock),
                      .shadow = std::move(shadow)});
          },
          py::arg("name"), py::arg("version"), py::arg("scorer"), py::kw_only(),
          py::arg("reconstructs") = false, py::arg("p_values") = py::none(), py::arg("states") = py::none(),
          py::arg("rules") = StreamRules(), py::arg("clock") = py::none(), py::arg("shadow") = py::none())
      .def("remove", &ModelTable::remove, py::arg("name"), py::arg("version"))
      .def("set_default", &ModelTable::set_default, py::arg("name"))
      .def("find", &find_model, py::arg("name") = "", py::arg("version") = "")
      .def("statistics", &statistics_of, py::arg("name"), py::arg("version"))
      .def_property_readonly("generation", &ModelTable::generation);

  py::class_<InferenceService, std::shared_ptr<InferenceService>>(module, "InferenceService")
      .def(py::init(&make_inference_service), py::arg("models"), py::kw_only(), py::arg("max_inline_us"),
           py::arg("memory_bytes"), py::arg("queue_rows"), py::arg("max_queue_delay_us"),
           py::arg("queue_threads"), py::arg("wake_descriptor"))
      .def("collect", &InferenceService::collect)
      .def(
          "hold", [](InferenceService& self, std::size_t bytes) { self.memory()->add(bytes); },
          py::arg("size_bytes"))
      .def(
          "release", [](InferenceService& self, std::size_t bytes) { self.memory()->give_back(bytes); },
          py::arg("size_bytes"))
      .def_property_readonly("queue_depth_rows",
                             [](InferenceService& self) { return self.queue().depth_rows(); })
      .def_property_readonly("queue_waits_s",
                             [](InferenceService& self) { return as_tuple(self.queue().waits_s()); });

  module.def(
      "error_name", [](int code) { return error_name(static_cast<ErrorCode>(code)); }, py::arg("code"));
  py::class_<RequestCounts, std::shared_ptr<RequestCounts>>(module, "RequestCounts")
      .def(py::init<std::vector<double>>(), py::arg("latency_bounds_s"))
      .def("trace", &RequestCounts::trace, py::arg("min_latency_s"))
      .def("take", &take_counts);

  py::class_<WireSession>(module, "WireSession")
      .def("feed", &feed, py::arg("data"))
      .def("finish", &finish)
      .def_property_readonly("number", &WireSession::number)
      .def_property_readonly("state", &WireSession::state);

  py::class_<HttpService, std::shared_ptr<HttpService>>(module, "HttpService")
      .def(py::init([](std::shared_ptr<InferenceService> inference, std::shared_ptr<RequestCounts> counts,
                       std::size_t max_body_bytes, std::size_t max_request_rows, std::string server,
                       const py::object& authorize) {
             return std::make_shared<HttpService>(
                 HttpService{.inference = std::move(inference),
                             .counts = std::move(counts),
                             .limits = {.max_body_bytes = max_body_bytes, .max_rows = max_request_rows},
                             .server = std::move(server),
                             .authorize = authorization(authorize)});
           }),
           py::arg("inference"), py::arg("counts"), py::kw_only(), py::arg("max_body_bytes"),
           py::arg("max_request_rows"), py::arg("server"), py::arg("authorize") = py::none())
      .def("open_session",
           [](std::shared_ptr<HttpService> self) { return std::make_unique<HttpSession>(std::move(self)); });
  py::class_<HttpSession, WireSession>(module, "HttpSession")
      .def("take_event", &take_http_event)
      .def("respond", &HttpSession::respond, py::arg("status"), py::arg("fields"), py::arg("body"))
      .def("deliver", &HttpSession::deliver, py::arg("piece"), py::kw_only(), py::arg("is_last"))
      .def("drain", &HttpSession::drain)
      .def("take_failure", &HttpSession::take_failure);

  py::class_<LineSession, WireSession>(module, "LineSession")
      .def(py::init([](std::shared_ptr<InferenceService> service, std::shared_ptr<RequestCounts> counts,
                       std::size_t max_line_bytes) {
             return std::make_unique<LineSession>(std::move(service), std::move(counts),
                                                  LineLimits{.max_line_bytes = max_line_bytes});
           }),
           py::arg("service"), py::arg("counts"), py::kw_only(), py::arg("max_line_bytes"))
      .def("take_failures", &LineSession::take_failures);

  py::class_<Nghttp2>(module, "Nghttp2")
      .def(py::init([](const std::vector<std::string>& paths) { return Nghttp2{nghttp2::open(paths)}; }),
           py::arg("paths"))
      .def("__str__", [](const Nghttp2& self) { return self.api->describe(); });
  py::class_<GrpcService, std::shared_ptr<GrpcService>>(module, "GrpcService")
      .def(py::init([](const Nghttp2& library, std::shared_ptr<InferenceService> inference,
                       std::shared_ptr<RequestCounts> counts, std::size_t max_message_bytes,
                       std::size_t max_request_rows, std::uint32_t max_streams, double receive_timeout_s,
                       double min_ping_interval_s, const py::object& admit) {
             const GrpcLimits limits{.max_message_bytes = max_message_bytes,
                                     .max_rows = max_request_rows,
                                     .max_streams = max_streams,
                                     .receive_timeout = std::chrono::duration<double>(receive_timeout_s),
                                     .min_ping_interval = std::chrono::duration<double>(min_ping_interval_s)};
             return std::make_shared<GrpcService>(library.api, std::move(inference), std::move(counts),
                                                  limits, admission(admit));
           }),
           py::arg("library"), py::arg("inference"), py::arg("counts"), py::kw_only(),
           py::arg("max_message_bytes"), py::arg("max_request_rows"), py::arg("max_streams"),
           py::arg("receive_timeout_s"), py::arg("min_ping_interval_s"), py::arg("admit") = py::none())
      .def("open_session", [](std::shared_ptr<GrpcService> service) {
        return std::make_unique<GrpcSession>(std::move(service));
      });
  py::class_<GrpcSession, WireSession>(module, "GrpcSession")
      .def("take_output", &take_grpc_output)
      .def("take_events", &take_grpc_events)
      .def("reply", &GrpcSession::reply, py::arg("call"), py::arg("message"))
      .def("finish_call", &GrpcSession::finish_call, py::arg("call"), py::arg("status"), py::arg("message"))
      .def("deliver", &GrpcSession::deliver, py::arg("call"), py::arg("message"))
      .def("abandon_calls", &GrpcSession::abandon_calls, py::arg("status"), py::arg("message"))
      .def("expire", &GrpcSession::expire)
      .def("next_deadline_s", &GrpcSession::next_deadline_s)
      .def("drain", &GrpcSession::drain)
      .def_property_readonly("open_calls", &GrpcSession::open_calls);
}

}  // namespace datasentinel
