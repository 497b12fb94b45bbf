"""OpenTelemetry: spans that tell what was answered, and their way to a collector."""

from __future__ import annotations

import http.server
import subprocess
import sys
import threading
import time

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from datasentinel.backend import HttpService
from datasentinel.serving.data_plane import DataPlane
from datasentinel.serving.lines.session import LineStream
from datasentinel.serving.tracing import Tracing
from tests.integration.server_process import ANY_PORT, command, to_lines


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


def tracing(spans: InMemorySpanExporter, min_ms: float = 0.0) -> Tracing:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    return Tracing(provider, min_ms=min_ms)


def test_a_span_tells_what_was_answered_and_how_long_it_took(detector, rows, spans):
    plane = DataPlane(detector, tracing(spans))
    started_ns = time.time_ns()
    stream = LineStream(plane.inference, plane.request_counts("tcp"), max_line_bytes=1000)
    stream.feed(to_lines(rows[:10]) + b"bad\n1 2")
    service = HttpService(
        plane.inference.native,
        plane.request_counts("http", str),
        max_body_bytes=1000,
        max_request_rows=10,
        server="test",
    )
    service.open_session().feed(
        b"POST /v2/models/none/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
    )
    plane.trace()
    lines, refused = spans.get_finished_spans()
    assert lines.name == "datasentinel.tcp"
    assert dict(lines.attributes) == {
        "datasentinel.transport": "tcp",
        "datasentinel.requests": 11,
        "datasentinel.rows": 10,
        "datasentinel.anomalies": int(detector.predict(rows[:10]).sum()),
        "datasentinel.errors": 1,
    }
    assert refused.name == "datasentinel.http"
    assert refused.attributes["error.type"] == "404"
    for span, account in ((lines, plane.account("tcp")), (refused, plane.account("http"))):
        assert started_ns <= span.start_time <= span.end_time <= time.time_ns()
        requests = sum(account.latency_counts)
        assert (span.end_time - span.start_time) / 1e9 == pytest.approx(
            account.latency_sum_s / requests, abs=1e-9
        )


def test_what_is_fast_gets_no_span(detector, rows, spans):
    plane = DataPlane(detector, tracing(spans, min_ms=60_000))
    stream = LineStream(plane.inference, plane.request_counts("tcp"), max_line_bytes=1000)
    assert stream.feed(to_lines(rows[:10]))
    plane.trace()
    assert spans.get_finished_spans() == ()


class Collector(http.server.BaseHTTPRequestHandler):
    """Takes spans as an OpenTelemetry collector does."""

    received: list[ExportTraceServiceRequest]

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.received.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args):
        pass


def test_spans_reach_a_collector(start_server, rows):
    received: list[ExportTraceServiceRequest] = []
    handler = type("ThisCollector", (Collector,), {"received": received})
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as collector:
        thread = threading.Thread(target=collector.serve_forever, daemon=True)
        thread.start()
        environ = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=test",
        }
        with start_server("--tracing", "--tracing-min-ms", "0", "--no-grpc", environ=environ) as server:
            server.ask(to_lines(rows[:100]))
            assert server.stop() == 0
        collector.shutdown()
        thread.join()
    resources = [resource for request in received for resource in request.resource_spans]
    facts = {fact.key: fact.value.string_value for fact in resources[0].resource.attributes}
    assert facts["service.name"] == "datasentinel"
    assert facts["deployment.environment"] == "test"
    names = [span.name for resource in resources for scope in resource.scope_spans for span in scope.spans]
    assert set(names) == {"datasentinel.tcp"}


def test_without_the_package_tracing_says_what_to_install(artifact):
    """As on a machine where it is not installed: the import fails."""
    block = "import sys; sys.modules['opentelemetry'] = None; from datasentinel.cli import main; main()"
    arguments = command(artifact, *ANY_PORT, "--tracing")
    done = subprocess.run(
        [sys.executable, "-c", block, *arguments[arguments.index("serve") :]],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "pip install 'datasentinel[otel]'" in done.stderr
    assert "Traceback" not in done.stderr
