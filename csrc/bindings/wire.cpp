// The wire protocols' sessions and the models that they serve.

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
#include "serving/model_table.h"
#include "wire/grpc_session.h"
#include "wire/http_session.h"
#include "wire/line_session.h"
#include "wire/nghttp2_api.h"
#include "wire/rest_inference.h"

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
  const RequestStatistics::Values values = model->statistics.values();
  py::dict result;
  result["successes"] = values.successes;
  result["success_ns"] = values.success_ns;
  result["queue_ns"] = values.queue_ns;
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

/// Holders of pybind11 are of what is not const.
struct Nghttp2 {
  std::shared_ptr<const nghttp2::Api> api;
};

std::shared_ptr<GrpcService> make_grpc_service(const Nghttp2& library, std::shared_ptr<ModelTable> models,
                                               const GrpcLimits& limits, std::size_t queue_rows,
                                               std::int64_t max_queue_delay_us, std::size_t queue_threads,
                                               std::vector<double> latency_bounds_s, int wake_descriptor,
                                               const py::object& admit) {
  const QueueLimits queue_limits{.max_rows = queue_rows,
                                 .max_delay = std::chrono::microseconds(max_queue_delay_us),
                                 .threads = queue_threads};
  return std::make_shared<GrpcService>(library.api, std::move(models), limits, queue_limits,
                                       std::move(latency_bounds_s), wake_up(wake_descriptor),
                                       admission(admit));
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

void bind_wire(py::module_& module) {
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
      .def(py::init([](std::shared_ptr<ModelTable> models, std::size_t max_rows, double max_inline_us) {
             return std::make_shared<RestInference>(std::move(models), max_rows, max_inline_us);
           }),
           py::arg("models"), py::kw_only(), py::arg("max_rows"), py::arg("max_inline_us"))
      .def("is_long", &RestInference::is_long, py::arg("name"), py::arg("version"), py::arg("body_bytes"))
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

  py::class_<Nghttp2>(module, "Nghttp2")
      .def(py::init([](const std::vector<std::string>& paths) { return Nghttp2{nghttp2::open(paths)}; }),
           py::arg("paths"))
      .def("__str__", [](const Nghttp2& self) { return self.api->describe(); });
  py::class_<GrpcService, std::shared_ptr<GrpcService>>(module, "GrpcService")
      .def(py::init([](const Nghttp2& library, std::shared_ptr<ModelTable> models,
                       std::size_t max_message_bytes, std::size_t max_request_rows, std::uint32_t max_streams,
                       double max_inline_us, std::size_t queue_rows, std::int64_t max_queue_delay_us,
                       std::size_t queue_threads, std::vector<double> latency_bounds_s, int wake_descriptor,
                       const py::object& admit) {
             const GrpcLimits limits{.max_message_bytes = max_message_bytes,
                                     .max_rows = max_request_rows,
                                     .max_streams = max_streams,
                                     .max_inline_us = max_inline_us};
             return make_grpc_service(library, std::move(models), limits, queue_rows, max_queue_delay_us,
                                      queue_threads, std::move(latency_bounds_s), wake_descriptor, admit);
           }),
           py::arg("library"), py::arg("models"), py::kw_only(), py::arg("max_message_bytes"),
           py::arg("max_request_rows"), py::arg("max_streams"), py::arg("max_inline_us"),
           py::arg("queue_rows"), py::arg("max_queue_delay_us"), py::arg("queue_threads"),
           py::arg("latency_bounds_s"), py::arg("wake_descriptor"), py::arg("admit") = py::none())
      .def("open_session", &make_grpc_session)
      .def("collect", &GrpcService::collect)
      .def("take_counts", &take_counts)
      .def_property_readonly("queue_depth_rows", [](GrpcService& self) { return self.queue().depth_rows(); })
      .def_property_readonly("queue_waits_s",
                             [](GrpcService& self) { return as_tuple(self.queue().waits_s()); });
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

}  // namespace datasentinel
