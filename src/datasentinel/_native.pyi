"""The C++ extension. Only datasentinel.extension imports it."""

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, TypeAlias, final

import numpy as np
import numpy.typing as npt

from datasentinel.types import BoolArray, Float32Array, Float64Array, Int64Array

__version__: str

def build_info() -> dict[str, str]: ...
def cpu_features() -> list[str]: ...

# For each code: Python's class, the name in metrics, gRPC's code, HTTP's status.
def error_table() -> list[tuple[str, str, int, int]]: ...

@final
class BackendStatus:
    @property
    def name(self) -> str: ...
    @property
    def availability(self) -> str: ...
    @property
    def detail(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def library(self) -> str: ...

@final
class TensorInfo:
    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...

@final
class ModelInfo:
    @property
    def opset(self) -> int: ...
    @property
    def operators(self) -> list[str]: ...
    @property
    def inputs(self) -> list[TensorInfo]: ...
    @property
    def outputs(self) -> list[TensorInfo]: ...

def inspect_model(onnx: bytes, *, name: str) -> ModelInfo: ...

@final
class CudaSource:
    @property
    def text(self) -> str: ...
    @property
    def in_registers(self) -> bool: ...
    @property
    def constants(self) -> Float32Array: ...
    @property
    def layers(self) -> int: ...
    @property
    def low_layers(self) -> int: ...
    @property
    def scores_only(self) -> dict[str, dict[str, str | int]]: ...
    @property
    def all(self) -> dict[str, dict[str, str | int]]: ...

def cuda_source(onnx: bytes, *, name: str, shared_bytes: int, precision: str, wgmma: bool) -> CudaSource: ...
def pinned_empty(shape: Sequence[int]) -> Float32Array: ...
def compile_cuda(source: str, *, architecture: str, library: str) -> bytes: ...

@final
class Plan:
    def __init__(
        self,
        *,
        steps: Sequence[tuple[int, str]],
        timings: Sequence[tuple[int, str, float]],
        refusals: Sequence[tuple[str, str]],
    ) -> None: ...
    @property
    def steps(self) -> list[tuple[int, str]]: ...
    @property
    def timings(self) -> list[tuple[int, str, float]]: ...
    @property
    def refusals(self) -> list[tuple[str, str]]: ...

@final
class EngineOptions:
    def __init__(
        self,
        *,
        optimization_level: int,
        workspace_mib: int,
        max_rows: int,
        hardware_compatible: bool,
        version_compatible: bool,
        io_binding: str,
        cache_dir: str,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> None: ...

@final
class BuiltEngine:
    @property
    def architecture(self) -> int: ...
    @property
    def library(self) -> str: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def built(self) -> bool: ...

@final
class Registry:
    def __init__(self, libraries: dict[str, tuple[str, str]]) -> None: ...
    def status(self) -> list[BackendStatus]: ...
    def build_for(
        self,
        onnx: bytes,
        *,
        name: str,
        backend: str,
        precision: str,
        sha256: str,
        engine: EngineOptions,
        architectures: Sequence[int],
    ) -> list[BuiltEngine]: ...
    def load(
        self,
        onnx: bytes,
        *,
        name: str,
        backend: str,
        threshold: float,
        feature_names: Sequence[str],
        num_threads: int,
        precision: str,
        score_edges: Sequence[float] = (),
        feature_edges: Sequence[Sequence[float]] = (),
        sha256: str = "",
        warm_up_rows: int = 0,
        engine: EngineOptions | None = None,
        plan: Plan | None = None,
        plan_budget_s: float = 1.0,
    ) -> Scorer: ...

@final
class Scorer:
    @property
    def input_dim(self) -> int: ...
    @property
    def threshold(self) -> float: ...
    @property
    def backend(self) -> str: ...
    @property
    def facts(self) -> dict[str, str]: ...
    @property
    def plan(self) -> Plan: ...
    @property
    def counts(self) -> dict[str, int]: ...
    @property
    def score_counts(self) -> list[int]: ...
    # Of a sample of the rows since `observe`, by column: any row of a call, no more than one an interval.
    @property
    def feature_counts(self) -> list[list[int]]: ...
    # Keeps `histograms` and `feature_counts` from now on; before the scorer is shared between threads.
    def observe(self, *, sample_interval_s: float = 1e-3) -> None: ...
    # Keeps some of the rows scored last from now on; after `observe`, before the scorer is shared.
    def keep_recent_rows(self) -> None: ...
    # Each: time in ns since the epoch, score, whether it is an anomaly, values.
    def recent_rows(self, after_ns: int) -> list[tuple[int, float, bool, Float32Array]]: ...
    # Each: upper bounds, counts per bound and above the last one, sum.
    @property
    def histograms(self) -> dict[str, tuple[list[float], list[int], float]]: ...
    # Each answers NotImplemented when x is not a C-contiguous float32 array of rank 1 or 2. Scores of rows on
    # a device are a DeviceScores, or `out`.
    def score(self, x: npt.NDArray[np.generic], out: Float32Array | None = None) -> Float32Array: ...
    # On the caller's CUDA stream, without waiting; the next call, or the check, reports a value that is not
    # finite.
    def score_on_stream(self, x: object, out: object, stream: object) -> Float32Array: ...
    def check_device_rows(self) -> None: ...
    def predict(self, x: npt.NDArray[np.generic]) -> BoolArray: ...
    def reconstruct(self, x: npt.NDArray[np.generic], out: Float32Array | None = None) -> Float32Array: ...
    def contributions(self, x: npt.NDArray[np.generic], out: Float32Array | None = None) -> Float32Array: ...
    @property
    def state_dim(self) -> int: ...
    # The rows of as many streams; `states` is brought up to date in place, and what is given is filled.
    def step(
        self,
        x: Float32Array,
        states: Float32Array,
        scores: Float32Array | None = None,
        reconstructions: Float32Array | None = None,
        contributions: Float32Array | None = None,
    ) -> None: ...
    # The rows of one stream, one after the other; `states` has one row.
    def scan(
        self,
        x: Float32Array,
        states: Float32Array,
        scores: Float32Array | None = None,
        reconstructions: Float32Array | None = None,
        contributions: Float32Array | None = None,
    ) -> None: ...

# How a version of a model keeps its streams.
@final
class StreamRules:
    def __init__(
        self,
        *,
        warm_up_rows: int = 0,
        gap_s: float = ...,
        row_s: float = 0.0,
        first_values: Sequence[float] = ...,
        stale_rows: int = 0,
    ) -> None: ...

# The states of streams; the one that was used least recently makes room.
@final
class StateStore:
    # With room for what these rules carry; versions with other rules that carry as much may share it.
    def __init__(
        self, state_size: int, rules: StreamRules, *, max_streams: int, max_bytes: int = ...
    ) -> None: ...
    # The scores [N] of rows [N, D], each of the stream of this id, and whether they are warming; those of one
    # stream follow each other, and begin anew after a gap between two times. Fills in what else is given,
    # [N, D], and in the rows what is missing where there are first values; a leader has just scored the same
    # rows, and knows what was missing in them. One call at a time for a stream.
    def score(
        self,
        scorer: Scorer,
        rules: StreamRules,
        x: Float32Array,
        streams: Sequence[str],
        times_s: Float64Array | None = None,
        *,
        reconstructions: Float32Array | None = None,
        contributions: Float32Array | None = None,
        leader: StateStore | None = None,
    ) -> tuple[Float32Array, BoolArray]: ...
    def forget(self, stream: str) -> bool: ...
    # From a place on, of so many: the next place or None, ids in UTF-8, their last use (the greater the
    # later), records [n, R], the times of their last rows, NaN where unknown.
    def copy(
        self, place: int, count: int
    ) -> tuple[int | None, list[bytes], npt.NDArray[np.uint64], Float32Array, Float64Array]: ...
    # Takes over streams that are not known while there is room, the one used latest first; how many.
    def insert(
        self,
        streams: Sequence[bytes],
        rules: StreamRules,
        records: Float32Array,
        times_s: Float64Array | None = None,
    ) -> int: ...
    def __contains__(self, stream: str) -> bool: ...
    def __len__(self) -> int: ...
    @property
    def state_size(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def warming(self) -> int: ...
    @property
    def stale(self) -> int: ...
    @property
    def stale_rows(self) -> int: ...
    def stale_columns(self, stream: str, rules: StreamRules) -> list[int]: ...
    @property
    def record_size(self) -> int: ...
    @property
    def evicted(self) -> int: ...

@final
class DeviceScores:
    def __len__(self) -> int: ...
    @property
    def shape(self) -> tuple[int]: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...
    def __dlpack__(self, **kwargs: object) -> object: ...
    @property
    def __cuda_array_interface__(self) -> dict[str, object]: ...

@final
class Roof:
    @property
    def isa(self) -> str: ...
    @property
    def gflops(self) -> float: ...
    @property
    def l1_gb_s(self) -> float: ...
    @property
    def l2_gb_s(self) -> float: ...
    @property
    def memory_gb_s(self) -> float: ...

def measure_roof(seconds: float) -> list[Roof]: ...
def measure_gflops(isa: str, seconds: float) -> float: ...

@final
class PValueTable:
    def __init__(self, *, scores: Sequence[float], greater: Sequence[int], rows: int) -> None: ...
    def p_values(self, scores: Float32Array) -> Float64Array: ...

@final
class WallClock:
    # From starts_s[i] on, so far ahead of UTC.
    def __init__(self, starts_s: Sequence[float], offsets_s: Sequence[float]) -> None: ...
    def second_of_week(self, time_s: float) -> float: ...

@final
class Shadow:
    def __init__(
        self, scorer: Scorer, states: StateStore, rules: StreamRules, clock: WallClock | None = None
    ) -> None: ...
    # Empty while it can score.
    @property
    def failure(self) -> str: ...

@final
class ModelTable:
    def __init__(self) -> None: ...
    # A model with memory needs a store of its states; versions may share it. Its shadow sees all its rows.
    def put(
        self,
        name: str,
        version: str,
        scorer: Scorer,
        *,
        reconstructs: bool = False,
        p_values: PValueTable | None = None,
        states: StateStore | None = None,
        rules: StreamRules = ...,
        clock: WallClock | None = None,
        shadow: Shadow | None = None,
    ) -> None: ...
    def remove(self, name: str, version: str) -> bool: ...
    def set_default(self, name: str) -> None: ...
    def find(self, name: str = "", version: str = "") -> tuple[str, str] | None: ...
    def statistics(self, name: str, version: str) -> dict[str, int] | None: ...
    @property
    def generation(self) -> int: ...

@final
class Nghttp2:
    def __init__(self, paths: Sequence[str]) -> None: ...

@final
class InferenceService:
    def __init__(
        self,
        models: ModelTable,
        *,
        max_inline_us: float,
        memory_bytes: int,
        queue_rows: int,
        max_queue_delay_us: int,
        queue_threads: int,
        wake_descriptor: int,
    ) -> None: ...
    # The numbers of the sessions that may have something to send.
    def collect(self) -> list[int]: ...
    # Of the memory budget, room or not.
    def hold(self, size_bytes: int) -> None: ...
    def release(self, size_bytes: int) -> None: ...
    @property
    def queue_depth_rows(self) -> int: ...
    # As in `Scorer.histograms`.
    @property
    def queue_waits_s(self) -> tuple[list[float], list[int], float]: ...

# What metrics call an error of the core's.
def error_name(code: int) -> str: ...

@final
class RequestCounts:
    def __init__(self, latency_bounds_s: Sequence[float]) -> None: ...
    def trace(self, min_latency_s: float) -> None: ...
    # What came since the last call. `errors` is by code; each of `traced` is requests, rows, anomalies,
    # errors, code, latency in s, end in ns since the epoch.
    def take(self) -> dict[str, Any]: ...

@final
class GrpcService:
    def __init__(
        self,
        library: Nghttp2,
        inference: InferenceService,
        counts: RequestCounts,
        *,
        max_message_bytes: int,
        max_request_rows: int,
        max_streams: int,
        receive_timeout_s: float,
        min_ping_interval_s: float,
        admit: Callable[[bytes, bytes], tuple[int, str] | None] | None = None,
    ) -> None: ...
    def open_session(self) -> GrpcSession: ...

class WireSession:
    # What is to be sent, and `state`.
    def feed(self, data: bytes) -> tuple[bytes, int]: ...
    def finish(self) -> tuple[bytes, int]: ...
    @property
    def number(self) -> int: ...
    # 1: something to attend to; 2: in the middle of a message; 4: closed; 8: unfinished; 16: waits for an
    # answer; 32: an event to take; 64: nothing that the peer asked for has moved.
    @property
    def state(self) -> int: ...

@final
class GrpcSession(WireSession):
    # As `feed`.
    def take_output(self) -> tuple[bytes, int]: ...
    # Kind, call, text, compressed, metadata.
    def take_events(self) -> list[tuple[str, int, bytes, bool, list[tuple[bytes, bytes]]]]: ...
    def reply(self, call: int, message: bytes) -> None: ...
    def finish_call(self, call: int, status: int, message: str) -> None: ...
    def deliver(self, call: int, message: bytes) -> None: ...
    def abandon_calls(self, status: int, message: str) -> None: ...
    def expire(self) -> None: ...
    def next_deadline_s(self) -> float | None: ...
    def drain(self) -> None: ...
    @property
    def open_calls(self) -> int: ...

@final
class HttpService:
    def __init__(
        self,
        inference: InferenceService,
        counts: RequestCounts,
        *,
        max_body_bytes: int,
        max_request_rows: int,
        server: str,
        authorize: Callable[[bytes | None], bool] | None = None,
    ) -> None: ...
    def open_session(self) -> HttpSession: ...

@final
class HttpSession(WireSession):
    # Whether its body is to be delivered, method, target, fields by lower-case name, body.
    def take_event(self) -> tuple[bool, str, str, dict[str, str], bytes]: ...
    # Answers the request of the last event; `fields` are lines of the head, each with its end.
    def respond(self, status: int, fields: str, body: bytes) -> None: ...
    # Hands back the body of the last event, decompressed, in pieces.
    def deliver(self, piece: bytes, *, is_last: bool) -> None: ...
    def drain(self) -> None: ...
    def take_failure(self) -> str: ...

@final
class LineSession(WireSession):
    def __init__(self, service: InferenceService, counts: RequestCounts, *, max_line_bytes: int) -> None: ...
    # How many lines failed by no fault of theirs since the last call, and why the last of them did.
    def take_failures(self) -> tuple[int, str]: ...

class CsvProblem(Enum):
    WRONG_COUNT = ...
    EMPTY = ...
    NOT_A_NUMBER = ...
    NOT_FINITE = ...
    OUT_OF_RANGE = ...
    OPEN_QUOTE = ...

# A bad record's row, line, problem, column (or number of fields) and text.
_BadRecord: TypeAlias = tuple[int, int, CsvProblem, int, bytes]
# A text column's offsets and bytes.
_TextColumn: TypeAlias = tuple[Int64Array, bytes]

@final
class CsvParser:
    def __init__(
        self,
        *,
        width: int,
        numbers: list[int],
        texts: list[int],
        delimiter: str,
        quote: str,
        decimal: str,
        comment: str,
        escape: str = ...,
        thousands: bytes = ...,
        missing: list[str] = ...,
    ) -> None: ...
    # Good rows, bad records, text columns, each record's first line, and the number of lines.
    def parse_float32(
        self, text: bytes
    ) -> tuple[Float32Array, list[_BadRecord], list[_TextColumn], Int64Array, int]: ...
    def parse_float64(
        self, text: bytes
    ) -> tuple[Float64Array, list[_BadRecord], list[_TextColumn], Int64Array, int]: ...
    def whole_records(self, text: bytes) -> int: ...

def split_csv(
    text: bytes, limit: int, *, delimiter: str, quote: str, comment: str, escape: str = ...
) -> list[tuple[int, int, list[bytes]]]: ...
