"""OpenTelemetry traces: one span for what was answered together, a request or the lines of one chunk.

Spans are made after the work, from its account, so what is faster than asked for costs nothing.
"""

from __future__ import annotations

from functools import partial
from time import time_ns
from typing import TYPE_CHECKING, Any

import datasentinel
from datasentinel.errors import MissingDependencyError

if TYPE_CHECKING:
    from datasentinel.serving.accounts import Answered, Observer
    from datasentinel.serving.settings import Settings


class Tracing:
    """Makes the spans.

    Parameters
    ----------
    provider : opentelemetry.trace.TracerProvider
    min_ms : float
        Nothing faster gets a span.

    Attributes
    ----------
    min_s : float
        The same in seconds.
    """

    def __init__(self, provider: Any, *, min_ms: float = 0.0) -> None:  # noqa: ANN401  # an optional package's class
        self._provider = provider
        self._tracer = provider.get_tracer("datasentinel", datasentinel.__version__)
        self.min_s = min_ms / 1e3

    @classmethod
    def from_settings(cls, settings: Settings) -> Tracing | None:
        """Set tracing up as the `OTEL_*` environment variables say; None where the settings ask for none.

        Raises
        ------
        MissingDependencyError
            OpenTelemetry is not installed.
        """
        if not settings.tracing:
            return None
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise MissingDependencyError(
                f"tracing needs OpenTelemetry: pip install 'datasentinel[otel]' ({error})"
            ) from error
        resource = Resource({SERVICE_NAME: "datasentinel"}).merge(OTELResourceDetector().detect())
        provider = TracerProvider(resource=resource)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return cls(provider, min_ms=settings.tracing_min_ms)

    def observer(self, transport: str) -> Observer:
        """Return what an account calls for each answer."""
        return partial(self._trace, transport)

    def shut_down(self) -> None:
        """Send what is left."""
        self._provider.shutdown()

    def _trace(self, transport: str, answered: Answered) -> None:
        if answered.latency_s < self.min_s:
            return
        end_ns = time_ns() if answered.ended_ns is None else answered.ended_ns
        attributes: dict[str, str | int] = {
            "datasentinel.transport": transport,
            "datasentinel.requests": answered.requests,
            "datasentinel.rows": answered.rows,
            "datasentinel.anomalies": answered.anomalies,
            "datasentinel.errors": answered.errors,
        }
        if answered.errors and answered.code:
            attributes["error.type"] = answered.code
        span = self._tracer.start_span(
            f"datasentinel.{transport}",
            attributes=attributes,
            start_time=end_ns - round(answered.latency_s * 1e9),
        )
        span.end(end_ns)
