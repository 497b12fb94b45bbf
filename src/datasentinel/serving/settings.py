"""The server's settings: each one defined once.

A setting is a field of `Settings`. Its command-line flag, its environment variable (`DATASENTINEL_` and the
name in capitals) and its key in the configuration file all follow from the field.
"""

from __future__ import annotations

import math
from dataclasses import Field, dataclass, field, fields
from typing import Any

from datasentinel.errors import SettingsError
from datasentinel.precisions import COMPUTE_PRECISIONS
from datasentinel.types import BACKEND_NAMES, IO_BINDINGS

ENVIRONMENT_PREFIX = "DATASENTINEL_"

KIND_NAMES: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
}


def _setting(
    default: Any,  # noqa: ANN401  # becomes the field's type, whichever that is
    help_text: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:  # noqa: ANN401
    return field(
        default=default,
        metadata={"help": help_text, "minimum": minimum, "maximum": maximum, "choices": choices},
    )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything about a server that can be set; `load_settings` reads the sources.

    Each field's `metadata` holds its `help`, and what limits its value: `minimum`, `maximum`, `choices`.

    Raises
    ------
    SettingsError
        A value is out of its limits, or two values contradict each other.
    """

    model: str = _setting("models", "Folder of the model artifact, or of <name>/<version>/ ones.")
    default_model: str = _setting(
        "", "Which of several models answers requests that name none; empty: the first by name."
    )
    served_versions: int = _setting(
        1, "How many versions of a model are served, the greatest numbers first.", minimum=1
    )
    watch: bool = _setting(False, "Watch the model folder, and serve new versions as they come.")
    watch_interval_s: float = _setting(
        1.0, "How often to check a watched folder.", minimum=0.01, maximum=86400
    )
    load_timeout_s: float = _setting(
        600.0, "How long a model may take to load before loading is abandoned; 0: no limit.", minimum=0
    )
    repository_control: bool = _setting(False, "Let clients load and unload models.")
    backend: str = _setting("auto", "Backend that runs the model.", choices=BACKEND_NAMES)
    plan_budget_s: float = _setting(
        1.0, 'How long "auto" may benchmark the backends on a model that it has no plan for.', minimum=0
    )
    num_threads: int = _setting(1, "Threads that one scoring call may use.", minimum=1, maximum=1024)
    precision: str = _setting(
        "float32",
        "Arithmetic of the layers; a backend that does not offer it refuses the model.",
        choices=COMPUTE_PRECISIONS,
    )

    engine_optimization_level: int = _setting(
        3, "How hard a GPU backend searches for fast kernels when it builds an engine.", minimum=0, maximum=5
    )
    engine_workspace_mib: int = _setting(
        0,
        "Device memory that a layer may use at most, in MiB; 0 leaves it to the library.",
        minimum=0,
        maximum=1 << 24,
    )
    engine_max_rows: int = _setting(
        8192, "Largest batch of an engine; more rows are split.", minimum=1, maximum=1 << 24
    )
    engine_io_binding: str = _setting(
        "auto",
        "Whether ONNX Runtime keeps rows and results in device memory, and whether it replays CUDA graphs.",
        choices=IO_BINDINGS,
    )

    host: str = _setting("127.0.0.1", "Address to listen on.")
    tcp: bool = _setting(True, "Serve the TCP line protocol.")
    tcp_port: int = _setting(9000, "Port of the line protocol; 0 picks a free one.", minimum=0, maximum=65535)
    grpc: bool = _setting(True, "Serve gRPC.")
    grpc_port: int = _setting(9001, "Port of gRPC; 0 picks a free one.", minimum=0, maximum=65535)
    http: bool = _setting(True, "Serve inference, health and metrics over HTTP.")
    http_port: int = _setting(9002, "Port of HTTP; 0 picks a free one.", minimum=0, maximum=65535)
    admin_port: int = _setting(
        -1,
        "Separate HTTP port for health and metrics only; 0 picks a free one, -1: none.",
        minimum=-1,
        maximum=65535,
    )
    flight_port: int = _setting(
        -1,
        "Port of Arrow Flight, for bulk; needs datasentinel[flight]. 0 picks a free one, -1: none.",
        minimum=-1,
        maximum=65535,
    )
    page: bool = _setting(True, "Serve the live page at / of the HTTP port.")

    tls_certificate: str = _setting(
        "", "PEM file of the certificate, which turns TLS on for every port; empty leaves it off."
    )
    tls_key: str = _setting("", "PEM file of its key, unencrypted; empty: it is in the certificate's file.")
    tls_client_ca: str = _setting(
        "", "PEM file of the authorities that sign clients' certificates; with it, every client needs one."
    )
    token_file: str = _setting(
        "", "File of bearer tokens, one per line; gRPC and HTTP requests must carry one. Empty: none needed."
    )
    metrics_need_token: bool = _setting(False, "With token_file, require a token for /metrics too.")
    workers: int = _setting(
        1,
        "Processes that share the ports; with more than one, a supervisor keeps them alive.",
        minimum=1,
        maximum=256,
    )

    tcp_max_line_bytes: int = _setting(
        1 << 20, "Longest line accepted, without its newline; a longer one ends the connection.", minimum=1
    )
    tcp_max_connections: int = _setting(1024, "Open TCP connections; more are refused.", minimum=1)
    tcp_idle_timeout_s: float = _setting(
        600.0, "Close a TCP connection after this long without traffic; 0: never.", minimum=0
    )
    require_grpc: bool = _setting(
        False,
        "Fail to start where gRPC cannot be served for lack of libnghttp2, instead of logging a warning.",
    )
    grpc_min_ping_interval_s: float = _setting(
        5.0,
        "Disconnect gRPC clients that ping more often while no reply is sent; 0: never (gRPC's own: 300).",
        minimum=0,
        maximum=10**6,
    )
    grpc_max_connections: int = _setting(1024, "Open gRPC connections; more are refused.", minimum=1)
    grpc_max_message_bytes: int = _setting(
        4 << 20, "Largest gRPC message accepted.", minimum=1, maximum=2**31 - 1
    )
    grpc_max_streams: int = _setting(
        1024,
        "Concurrent calls on one gRPC connection; the client holds back the rest.",
        minimum=1,
        maximum=2**31 - 1,
    )
    grpc_max_calls: int = _setting(
        4096,
        "Concurrent calls on all gRPC connections; further ones get RESOURCE_EXHAUSTED at once.",
        minimum=1,
    )
    grpc_idle_timeout_s: float = _setting(
        600.0,
        "Close a gRPC connection after this long without a message, pings aside; 0: never.",
        minimum=0,
        maximum=10**6,
    )
    flight_max_exchanges: int = _setting(
        16, "Exchanges at a time over Flight; more are refused as unavailable.", minimum=1, maximum=1 << 16
    )
    flight_max_batch_bytes: int = _setting(
        64 << 20, "Largest record batch accepted over Flight.", minimum=1, maximum=2**31 - 1
    )
    max_request_rows: int = _setting(
        1 << 20, "Largest number of rows in one gRPC or HTTP request.", minimum=1, maximum=2**31 - 1
    )
    http_max_body_bytes: int = _setting(16 << 20, "Largest HTTP request body accepted.", minimum=1)
    http_max_connections: int = _setting(256, "Open HTTP connections; more are refused.", minimum=1)
    http_idle_timeout_s: float = _setting(
        60.0, "Close an HTTP connection after this long without traffic; 0: never.", minimum=0
    )
    receive_timeout_s: float = _setting(
        30.0,
        "How long a TLS handshake, a line or an HTTP request may take to arrive once begun, and a client "
        "over Flight be waited for; 0: no limit.",
        minimum=0,
    )
    max_inline_us: float = _setting(
        300.0,
        "Scoring that is expected to take longer, and all scoring on a GPU, runs off the event loop.",
        minimum=0,
    )
    max_streams: int = _setting(
        100_000,
        "Streams that a model with memory remembers; beyond, the least recently used one is forgotten.",
        minimum=1,
        maximum=2**31 - 1,
    )
    stream_memory_mib: int = _setting(
        512,
        "Memory in MiB for the states of a model's streams; beyond, streams are forgotten as by max_streams.",
        minimum=1,
        maximum=1 << 24,
    )
    stream_snapshot: str = _setting(
        "", "Folder that keeps the states of streams across restarts; empty: streams start over."
    )
    stream_snapshot_interval_s: float = _setting(
        60.0, "How often snapshots are written, besides at shutdown.", minimum=0.1, maximum=86400
    )
    stream_shadow_s: float = _setting(
        3600.0,
        "How long a new version of a model with memory may warm up beside the old one, which answers until "
        "then; 0 takes over at once.",
        minimum=0,
        maximum=7 * 86400,
    )
    memory_mib: int = _setting(
        512,
        "Memory in MiB that all connections together may hold for requests and replies; more are refused.",
        minimum=1,
        maximum=1 << 24,
    )
    queue_rows: int = _setting(
        1 << 16,
        "Rows that may wait in the queue; further requests get RESOURCE_EXHAUSTED at once.",
        minimum=1,
    )
    max_queue_delay_us: int = _setting(
        0,
        "How long a queued request may wait for others to share its batch.",
        minimum=0,
        maximum=10**6,
    )
    write_buffer_bytes: int = _setting(
        64 << 10,
        "Unread replies of one connection, in bytes, beyond which its requests are not read.",
        minimum=1,
    )
    drain_timeout_s: float = _setting(
        10.0, "How long a stopping server may take to finish what it accepted.", minimum=0
    )

    tracing: bool = _setting(
        False, "Send OpenTelemetry traces, configured by OTEL_* variables; needs datasentinel[otel]."
    )
    tracing_min_ms: float = _setting(
        1.0, "Trace only requests that took at least this long; 0 traces all.", minimum=0
    )
    worker_timeout_s: float = _setting(
        10.0,
        "With several workers: replace one that has been unresponsive for this long; 0: never.",
        minimum=0,
    )
    log_level: str = _setting(
        "info", "Least severe log line shown.", choices=("debug", "info", "warning", "error")
    )
    log_format: str = _setting("text", "Log lines as key=value text or as JSON.", choices=("text", "json"))

    def __post_init__(self) -> None:
        for setting in fields(self):
            check_value(setting, getattr(self, setting.name), setting.name)
        if not (self.tcp or self.grpc or self.http):
            raise SettingsError("tcp, grpc and http are all off: nothing would be served")
        if not self.host:
            raise SettingsError("host: must not be empty; 0.0.0.0 listens on every IPv4 address")
        for name in ("tls_key", "tls_client_ca"):
            if getattr(self, name) and not self.tls_certificate:
                raise SettingsError(f"{name} is set, but tls_certificate is not")
        if self.repository_control and self.workers > 1:
            raise SettingsError(
                "repository_control with several workers would load a model in one of them only; use watch"
            )
        names: dict[int, str] = {}
        for name, port in self.ports.items():
            if port in names:
                raise SettingsError(f"{names[port]}_port and {name}_port are both {port}")
            if port != 0:
                names[port] = name

    @property
    def ports(self) -> dict[str, int]:
        """The port of each transport that is on; 0 stands for a free one."""
        names = [name for name in ("tcp", "grpc", "http") if getattr(self, name)]
        names += [name for name in ("admin", "flight") if getattr(self, f"{name}_port") >= 0]
        return {name: getattr(self, f"{name}_port") for name in names}


def flag_name(setting: Field[Any]) -> str:
    """Return the command-line flag of a setting, e.g. ``--tcp-port``."""
    return "--" + setting.name.replace("_", "-")


def variable_name(setting: Field[Any]) -> str:
    """Return the environment variable of a setting, e.g. ``DATASENTINEL_TCP_PORT``."""
    return ENVIRONMENT_PREFIX + setting.name.upper()


def check_value(setting: Field[Any], value: object, where: str) -> object:
    """Return `value` as the setting's type, or say what is wrong with it."""
    kind: type = type(setting.default)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise SettingsError(f"{where}: expected {KIND_NAMES[kind]}, got {value!r}")
    limits = setting.metadata
    if limits["choices"] and value not in limits["choices"]:
        raise SettingsError(f"{where}: expected one of {', '.join(limits['choices'])}, got '{value}'")
    if isinstance(value, int | float):
        if not math.isfinite(value):
            raise SettingsError(f"{where}: expected a finite number, got {value}")
        if limits["minimum"] is not None and value < limits["minimum"]:
            raise SettingsError(f"{where}: must be at least {limits['minimum']}, got {value}")
        if limits["maximum"] is not None and value > limits["maximum"]:
            raise SettingsError(f"{where}: must be at most {limits['maximum']}, got {value}")
    return value
